//! H28: HTTP/2 requests that are malformed (RFC 9113 section 8), in frames.

use super::frames::{Client, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, RST_STREAM, field};
use super::raw::Proxy;

const PROTOCOL_ERROR: u32 = 1;
/// `:status: 200` and `:status: 400`, as every encoder may write them (RFC 7541 appendix A).
const STATUS_200: u8 = 0x88;
const STATUS_400: u8 = 0x8c;

type Fields<'a> = Vec<(&'a str, &'a str)>;

fn get() -> Fields<'static> {
    vec![(":method", "GET"), (":scheme", "http"), (":authority", "api"), (":path", "/a")]
}

fn headers(stream: u32, fields: &Fields) -> Frame {
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| field(name, value)).collect();
    Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, block)
}

/// Sends a request on a connection of its own and says how it ended: an answer's first byte, or an error's code.
fn end_of(proxy: &Proxy, fields: &Fields) -> Result<u8, u32> {
    let mut client = Client::connect(proxy.address, &[]);
    assert!(client.send(&headers(1, fields)));
    let end = client.hear(|frame| matches!(frame.kind, HEADERS | RST_STREAM | GOAWAY)).expect("an answer or an error");
    match end.kind {
        HEADERS => Ok(end.payload[0]),
        RST_STREAM => Err(u32::from_be_bytes(end.payload[..4].try_into().expect("four bytes"))),
        _ => Err(end.error().expect("a GOAWAY has an error")),
    }
}

#[test]
fn fields_of_a_connection_are_an_error_of_the_stream_h28() {
    let proxy = Proxy::start();
    for (name, value) in [
        ("connection", "close"),
        ("connection", "x-a"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
    ] {
        let fields = [get(), vec![(name, value)]].concat();
        assert_eq!(end_of(&proxy, &fields), Err(PROTOCOL_ERROR), "{name}: {value}");
    }
    assert_eq!(proxy.upstream.count(), 0);
    assert_eq!(end_of(&proxy, &[get(), vec![("te", "trailers")]].concat()), Ok(STATUS_200));
    assert!(!proxy.upstream.last().has("te"), "{}", proxy.upstream.last().head);
}

#[test]
fn what_is_no_request_is_an_error_or_a_400_h28() {
    let proxy = Proxy::start();
    let without = |name: &str| get().into_iter().filter(|(found, _)| *found != name).collect::<Vec<_>>();
    let with = |name: &'static str, value: &'static str| [get(), vec![(name, value)]].concat();
    let instead = |name: &'static str, value: &'static str| {
        let replace = |(found, old)| if found == name { (found, value) } else { (found, old) };
        get().into_iter().map(replace).collect::<Vec<_>>()
    };
    let late =
        [vec![(":method", "GET"), (":scheme", "http"), ("x-a", "1")], vec![(":authority", "api"), (":path", "/a")]];
    let table: [(&str, Fields); 19] = [
        ("an uppercase name", with("X-Upper", "1")),
        ("a name with a space", with("x a", "1")),
        ("an empty name", with("", "1")),
        ("a name with a colon", with("x:a", "1")),
        ("a line break in a value", with("x-a", "1\r\nx-b: 2")),
        ("a NUL in a value", with("x-a", "1\0")),
        ("an unknown pseudo-field", with(":x", "1")),
        ("an answer's pseudo-field", with(":status", "200")),
        ("a pseudo-field behind the others", late.concat()),
        ("two paths", with(":path", "/b")),
        ("two methods", with(":method", "POST")),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("an empty path", instead(":path", "")),
        ("a path that is none", instead(":path", "a")),
        ("a line break in the path", instead(":path", "/a HTTP/1.1\r\nx: 1")),
        ("a method that is none", instead(":method", "GET /x")),
        ("another host beside the authority", with("host", "other")),
    ];
    for (name, fields) in table {
        let end = end_of(&proxy, &fields);
        assert!(matches!(end, Err(_) | Ok(STATUS_400)), "{name}: {end:?}");
    }
    assert_eq!(proxy.upstream.count(), 0);
    assert_eq!(end_of(&proxy, &with("host", "api")), Ok(STATUS_200), "the same host twice is no harm");
    assert_eq!(end_of(&proxy, &[without(":authority"), vec![("host", "api")]].concat()), Ok(STATUS_200));
    assert_eq!(proxy.upstream.last().one("host"), "api");
}

#[test]
fn a_body_that_is_not_as_long_as_it_says_is_never_executed_h28() {
    let proxy = Proxy::start();
    let post = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "api"),
        (":path", "/a"),
        ("idempotency-key", "k"),
        ("content-length", "5"),
    ];
    for body in ["hell", "hello!"] {
        let mut client = Client::connect(proxy.address, &[]);
        let mut head = headers(1, &post);
        head.flags = END_HEADERS;
        assert!(client.send(&head) && client.send(&Frame::new(DATA, END_STREAM, 1, body)));
        let end = client.hear(|frame| matches!(frame.kind, HEADERS | RST_STREAM | GOAWAY)).expect("an end");
        assert!(end.kind != HEADERS || end.payload[0] == STATUS_400, "{body}: {end:?}");
    }
    assert_eq!(proxy.upstream.count(), 0);
}

#[test]
fn a_malformed_request_leaves_the_others_of_its_connection_alone_h28() {
    let proxy = Proxy::start();
    let mut client = Client::connect(proxy.address, &[]);
    assert!(client.send(&headers(1, &[get(), vec![("connection", "close")]].concat())));
    assert!(client.hear(|frame| frame.kind == RST_STREAM && frame.stream == 1).is_some());
    assert!(client.send(&headers(3, &get())));
    let answer = client.hear(|frame| frame.kind == HEADERS && frame.stream == 3).expect("an answer");
    assert_eq!(answer.payload[0], STATUS_200);
}
