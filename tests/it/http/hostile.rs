//! Clients that mean harm, in numbers: the proxy answers or closes, its memory stays bounded, and others are served.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::frames::{
    CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, field, post_block,
};
use crate::support::client::Request;
use crate::support::proxy::{Proxy, Setup, quoted};
use crate::support::upstream::{Reply, Upstream};
use crate::support::waiting::{PATIENCE, eventually};
use crate::support::wire::{Kind, read_body, read_head};

/// More than any limit per connection and a good deal of fragmentation; less than a hundredth of what is sent at it
/// without a limit.
const ROOM_BYTES: usize = 48 << 20;
/// The most that one client writes.
const ENDLESS_BYTES: usize = 64 << 20;

/// How the keys of those begin that mean no harm.
const NEXT_CLIENT: &str = "next-client-";

const ENHANCE_YOUR_CALM: u32 = 11;
const FLOW_CONTROL_ERROR: u32 = 3;
const PROTOCOL_ERROR: u32 = 1;

/// A proxy of its own process, and what it looked like before.
struct Stage {
    proxy: Proxy,
    upstream: Upstream,
    before_bytes: usize,
    next_client: AtomicUsize,
}

impl Stage {
    fn new() -> Stage {
        Stage::with(Upstream::start(), |setup| setup)
    }

    fn with(upstream: Upstream, change: impl FnOnce(Setup) -> Setup) -> Stage {
        let proxy = change(Setup::new(upstream.address, "memory:")).start();
        let before_bytes = proxy.peak_bytes();
        Stage { proxy, upstream, before_bytes, next_client: AtomicUsize::new(0) }
    }

    /// Nothing panicked, little was taken, and the next client is served.
    fn assert_unharmed(&self) {
        let taken = self.proxy.peak_bytes() - self.before_bytes;
        assert!(taken < ROOM_BYTES, "the proxy took {} MiB", taken >> 20);
        let key = format!("{NEXT_CLIENT}{}", self.next_client.fetch_add(1, Ordering::AcqRel));
        let answer = Request::post("/pay").key(&key).body("1").send(self.proxy.address);
        let answer = answer.expect("the next client is served");
        assert_eq!((answer.status, answer.outcome().as_str()), (201, "executed"), "{}", answer.text());
        assert!(!self.proxy.said().contains("panicked"), "{}", self.proxy.said());
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.proxy.address).expect("the proxy accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time limit");
        stream
    }

    /// Writes a front and then the same part without end, until the proxy takes no more; says what it answered.
    fn flood(&self, front: &str, part: &str) -> String {
        let mut stream = self.connect();
        let parts = part.repeat((64 << 10) / part.len() + 1);
        let mut written = 0;
        let mut is_taken = stream.write_all(front.as_bytes()).is_ok();
        while is_taken && written < ENDLESS_BYTES {
            is_taken = stream.write_all(parts.as_bytes()).is_ok();
            written += parts.len();
        }
        assert!(written < ENDLESS_BYTES, "the proxy reads without end");
        answer_of(&mut stream)
    }
}

/// What was answered before the end; nothing where a reset took it away.
fn answer_of(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut part) {
        answer.extend_from_slice(&part[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// A refusal with this status, or nothing.
fn assert_refused(answer: &str, status: u16) {
    let expected = format!("HTTP/1.1 {status} ");
    assert!(answer.is_empty() || answer.starts_with(&expected), "{answer}");
}

/// The numbers of a client's streams.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

#[test]
fn ten_thousand_streams_opened_and_reset_at_once_h31() {
    let stage = Stage::new();
    let mut client = Client::connect(stage.proxy.address, &[]);
    for stream in streams(10_000) {
        let opened = Frame::post(stream, &format!("k{stream}"), END_STREAM).bytes();
        if !client.write(&[opened, Frame::reset(stream).bytes()].concat()) {
            break;
        }
    }
    if let Some(end) = client.hear(|frame| frame.kind == GOAWAY) {
        assert_eq!(end.error(), Some(ENHANCE_YOUR_CALM));
    }
    stage.assert_unharmed();
}

#[test]
fn ten_thousand_streams_reset_while_they_execute_h31() {
    let upstream = Upstream::answering(|request| match request.key.as_deref() {
        Some(key) if key.starts_with(NEXT_CLIENT) => Reply::status(201),
        _ => Reply::silence(),
    });
    let stage = Stage::with(upstream, |setup| {
        setup
            .upstream("max_connections", "4")
            .upstream("connect_timeout", quoted("1s"))
            .upstream("response_timeout", quoted("1s"))
    });
    let mut client = Client::connect(stage.proxy.address, &[]);
    let mut taken = 0;
    for stream in streams(10_000) {
        let is_open = client.send(&Frame::post(stream, &format!("k{stream}"), END_STREAM)) && client.is_caught_up();
        if !is_open || !client.send(&Frame::reset(stream)) {
            break;
        }
        taken += 1;
    }
    assert!(taken < 1000, "{taken} streams were taken from one who waits for no answer");
    // What it left behind comes to an end.
    eventually("a connection to the upstream", || {
        let answer = Request::post("/pay").key(NEXT_CLIENT).body("1").send(stage.proxy.address).expect("an answer");
        (answer.status == 201).then_some(())
    });
    stage.assert_unharmed();
}

#[test]
fn a_header_block_without_end_closes_the_connection() {
    let stage = Stage::new();
    let mut client = Client::connect(stage.proxy.address, &[]);
    assert!(client.send(&Frame::new(HEADERS, END_STREAM, 1, post_block("k"))));
    let more = Frame::new(CONTINUATION, 0, 1, field("x-more", &"x".repeat(1000))).bytes();
    let sent = (0..ENDLESS_BYTES / more.len()).take_while(|_| client.write(&more)).count();
    assert!(sent < ENDLESS_BYTES / more.len(), "the proxy reads without end");
    client.hear(|_| false);
    // Empty ones, which add nothing to the block.
    let mut client = Client::connect(stage.proxy.address, &[]);
    assert!(client.send(&Frame::new(HEADERS, END_STREAM, 1, post_block("k"))));
    let more = Frame::new(CONTINUATION, 0, 1, []).bytes().repeat(100);
    let sent = (0..10_000).take_while(|_| client.write(&more)).count();
    assert!(sent < 10_000, "the proxy reads without end");
    assert!(stage.upstream.received().is_empty());
    stage.assert_unharmed();
}

#[test]
fn a_header_list_over_the_limit_is_refused() {
    let stage = Stage::new();
    let mut client = Client::connect(stage.proxy.address, &[]);
    let mut block = post_block("k");
    (0..20).for_each(|number| block.extend(field(&format!("x-{number}"), &"x".repeat(5000))));
    let mut parts = block.chunks(16 << 10).peekable();
    let first = parts.next().expect("a part");
    assert!(client.send(&Frame::new(HEADERS, END_STREAM, 1, first)));
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_none() { END_HEADERS } else { 0 };
        client.send(&Frame::new(CONTINUATION, flags, 1, part));
    }
    client.hear(|frame| matches!(frame.kind, HEADERS | RST_STREAM | GOAWAY));
    assert!(stage.upstream.received().is_empty());
    stage.assert_unharmed();
}

#[test]
fn settings_and_pings_whose_answers_nobody_reads_are_bounded() {
    let stage = Stage::new();
    let changes = [[0, 4, 0, 0, 0, 1], [0, 4, 0, 0, 255, 255]].concat();
    for frame in [
        Frame::new(SETTINGS, 0, 0, []),
        Frame::new(SETTINGS, 0, 0, changes.repeat(100)),
        Frame::new(PING, 0, 0, [1; 8]),
    ] {
        let mut client = Client::deaf(stage.proxy.address, &[]);
        let bytes = frame.bytes().repeat(100);
        let _ = (0..2000).take_while(|_| client.write(&bytes)).count();
        stage.assert_unharmed();
    }
}

#[test]
fn a_body_in_a_thousand_frames_is_taken_and_one_of_empty_frames_is_not() {
    let stage = Stage::new();
    let mut client = Client::connect(stage.proxy.address, &[]);
    assert!(client.send(&Frame::post(1, "crumbs", 0)));
    for number in 1..=1000 {
        let flags = if number == 1000 { END_STREAM } else { 0 };
        assert!(client.send(&Frame::new(DATA, flags, 1, [b'x'])));
    }
    assert!(client.hear(|frame| (frame.kind, frame.stream) == (HEADERS, 1)).is_some());
    assert_eq!(stage.upstream.executions_of("crumbs")[0].body.len(), 1000);
    assert!(client.send(&Frame::post(3, "nothing", 0)));
    let empty = Frame::new(DATA, 0, 3, []).bytes().repeat(100);
    let sent = (0..1000).take_while(|_| client.write(&empty)).count();
    let end = client.hear(|frame| frame.kind == GOAWAY);
    assert!(end.is_some() || sent < 1000, "the proxy reads without end");
    assert!(stage.upstream.executions_of("nothing").is_empty());
    stage.assert_unharmed();
}

#[test]
fn windows_that_overflow_or_do_not_grow_close_the_connection() {
    let stage = Stage::new();
    let largest = (u32::MAX >> 1).to_be_bytes();
    for (increment, error) in [(largest, FLOW_CONTROL_ERROR), ([0; 4], PROTOCOL_ERROR)] {
        let mut client = Client::connect(stage.proxy.address, &[]);
        assert!(client.is_caught_up());
        client.write(&Frame::new(WINDOW_UPDATE, 0, 0, increment).bytes().repeat(2));
        let end = client.hear(|frame| frame.kind == GOAWAY).expect("it says why");
        assert_eq!(end.error(), Some(error));
    }
    stage.assert_unharmed();
}

#[test]
fn an_answer_that_is_taken_byte_by_byte_costs_no_more_than_its_bytes() {
    const BODY_BYTES: usize = 32 << 10;
    let upstream = Upstream::answering(|request| match request.key.as_deref() {
        Some(key) if key.starts_with(NEXT_CLIENT) => Reply::status(201),
        _ => Reply::status(201).body(vec![b'x'; BODY_BYTES]),
    });
    let stage = Stage::with(upstream, |setup| setup);
    let no_window = [0, 4, 0, 0, 0, 0];
    let mut client = Client::connect(stage.proxy.address, &no_window);
    assert!(client.send(&Frame::post(1, "k", END_STREAM)));
    let one_more = Frame::new(WINDOW_UPDATE, 0, 1, 1_u32.to_be_bytes()).bytes().repeat(1024);
    let mut received = 0;
    for _ in 0..BODY_BYTES / 1024 {
        assert!(client.write(&one_more));
    }
    while received < BODY_BYTES {
        let data = client.hear(|frame| frame.kind == DATA).expect("the answer goes on");
        received += data.payload.len();
    }
    stage.assert_unharmed();
}

#[test]
fn a_head_of_a_mebibyte_is_refused() {
    let stage = Stage::new();
    for front in ["GET / HTTP/1.1\r\nhost: api.test\r\nx-large: ", "GET /"] {
        let mut stream = stage.connect();
        let _ = stream.write_all(front.as_bytes());
        // The proxy may have closed before the end.
        let _ = stream.write_all(&vec![b'x'; 1 << 20]);
        assert_refused(&answer_of(&mut stream), 431);
    }
    stage.assert_unharmed();
}

#[test]
fn heads_that_never_end_hold_little_each() {
    let stage = Stage::new();
    let head = format!("GET / HTTP/1.1\r\nhost: api.test\r\nx-large: {}", "x".repeat(300 << 10));
    let held: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = stage.connect();
            let _ = stream.write_all(head.as_bytes());
            stream
        })
        .collect();
    for mut stream in held {
        assert_refused(&answer_of(&mut stream), 431);
    }
    stage.assert_unharmed();
}

#[test]
fn ten_thousand_field_lines_are_refused() {
    let stage = Stage::new();
    let mut stream = stage.connect();
    let lines: String = (0..10_000).map(|number| format!("x-{number}: 1\r\n")).collect();
    let _ = stream.write_all(format!("GET / HTTP/1.1\r\nhost: api.test\r\n{lines}\r\n").as_bytes());
    assert_refused(&answer_of(&mut stream), 431);
    assert!(stage.upstream.received().is_empty());
    stage.assert_unharmed();
}

#[test]
fn field_lines_and_trailers_without_end_are_refused() {
    let stage = Stage::new();
    let answer = stage.flood("GET / HTTP/1.1\r\nhost: api.test\r\n", "x: y\r\n");
    assert_refused(&answer, 431);
    let chunked = "POST /pay HTTP/1.1\r\nhost: api.test\r\nidempotency-key: k\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_refused(&stage.flood(&format!("{chunked}0\r\n"), "x: y\r\n"), 400);
    assert!(stage.upstream.executions().is_empty());
    stage.assert_unharmed();
}

#[test]
fn ten_thousand_pipelined_requests_are_answered_in_order() {
    let stage = Stage::new();
    let stream = stage.connect();
    let mut writer = stream.try_clone().expect("a second handle");
    let writes = thread::spawn(move || {
        let requests = "GET /pay HTTP/1.1\r\nhost: api.test\r\n\r\n".repeat(10_000);
        writer.write_all(requests.as_bytes()).expect("the proxy reads");
    });
    let mut reader = BufReader::new(stream);
    for number in 1..=10_000 {
        let head = read_head(&mut reader).expect("an answer").expect("one for each");
        assert_eq!(head.first("x-execution"), Some(number.to_string().as_str()));
        read_body(&mut reader, &head, Kind::Answer).expect("a body");
    }
    writes.join().expect("the client writes");
    stage.assert_unharmed();
}

#[test]
fn a_mebibyte_in_chunks_of_one_byte_costs_little_more_than_its_bytes() {
    const BODY_BYTES: usize = 1 << 20;
    let stage = Stage::new();
    let mut stream = stage.connect();
    let head = "POST /pay HTTP/1.1\r\nhost: api.test\r\nidempotency-key: k\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = format!("{head}{}0\r\n\r\n", "1\r\nx\r\n".repeat(BODY_BYTES));
    stream.write_all(body.as_bytes()).expect("the proxy reads");
    let answer = read_head(&mut BufReader::new(stream)).expect("an answer").expect("an answer");
    assert_eq!(answer.first("idempotency-status"), Some("executed"), "{}", answer.start);
    assert_eq!(stage.upstream.executions_of("k")[0].body.len(), BODY_BYTES);
    stage.assert_unharmed();
}

#[test]
fn a_chunk_extension_without_end_is_refused() {
    let stage = Stage::new();
    for key in ["", "idempotency-key: k\r\n"] {
        let head = format!("POST /pay HTTP/1.1\r\nhost: api.test\r\n{key}transfer-encoding: chunked\r\n\r\n");
        assert_refused(&stage.flood(&format!("{head}1;"), "extension;"), 400);
        // Each of them short, but one for each byte.
        assert_refused(&stage.flood(&head, "1;extension-of-a-chunk\r\nx\r\n"), 400);
    }
    assert!(stage.upstream.executions().is_empty());
    stage.assert_unharmed();
}
