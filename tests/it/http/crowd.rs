//! More connections than there are places.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::raw::{Proxy, Setup, post, read_message};

fn with_places(count: usize) -> Proxy {
    Setup::new()
        .listener(|listener| {
            listener.max_connections = count;
            listener.header_timeout = Duration::from_secs(60);
        })
        .start()
}

/// Whether a connection was closed, with whatever answer.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

#[test]
fn at_the_limit_the_connection_longest_without_a_head_makes_room() {
    let proxy = with_places(3);
    let mut silent = proxy.connect();
    let mut slow = proxy.connect();
    slow.write_all(b"POST / HTTP/1.1\r\nhost: a").expect("the proxy reads");
    let mut used = proxy.connect();
    used.write_all(post("/", "", "x").as_bytes()).expect("the proxy reads");
    assert_eq!(read_message(&mut used, true).expect("an answer").status(), 200);
    // One newcomer after the other: the silent one goes, then the slow one, which hears why, then the idle one.
    let newcomer = || {
        let mut newcomer = proxy.connect();
        newcomer.write_all(post("/", "", "x").as_bytes()).expect("the proxy reads");
        assert_eq!(read_message(&mut newcomer, true).expect("an answer").status(), 200);
        newcomer
    };
    let first = newcomer();
    assert!(is_closed(&mut silent));
    let second = newcomer();
    let answer = read_message(&mut slow, true).expect("an answer");
    assert_eq!((answer.status(), answer.code().as_str()), (503, "overloaded"));
    assert!(is_closed(&mut slow));
    let third = newcomer();
    assert!(is_closed(&mut used));
    for mut stream in [first, second, third] {
        stream.write_all(post("/", "", "x").as_bytes()).expect("the proxy reads");
        assert_eq!(read_message(&mut stream, true).expect("an answer").status(), 200);
    }
}

#[test]
fn when_all_have_requests_under_way_the_newcomer_waits() {
    let proxy = with_places(2);
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(std::sync::Mutex::new(released));
    proxy.upstream.acts(Box::new(move |request, stream| {
        let (released, mut stream) = (released.clone(), stream.try_clone().expect("the same socket"));
        let is_held = request.start_line().contains("/held");
        // Not on the thread that holds the script.
        thread::spawn(move || {
            if is_held {
                let _ = released.lock().expect("nobody panics").recv();
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        });
    }));
    let mut held: Vec<TcpStream> = (0..2).map(|_| proxy.connect()).collect();
    for stream in &mut held {
        stream.write_all(post("/held", "", "x").as_bytes()).expect("the proxy reads");
    }
    while proxy.upstream.count() < 2 {
        thread::yield_now();
    }
    let mut newcomer = proxy.connect();
    newcomer.write_all(post("/", "", "x").as_bytes()).expect("it waits in the kernel");
    newcomer.set_read_timeout(Some(Duration::from_millis(300))).expect("a time limit");
    assert!(newcomer.read(&mut [0]).is_err(), "nobody is turned out while its request is under way");
    release.send(()).expect("the upstream waits");
    newcomer.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
    assert_eq!(read_message(&mut newcomer, true).expect("an answer").status(), 200);
    release.send(()).expect("the upstream waits");
    for stream in &mut held {
        assert_eq!(read_message(stream, true).expect("an answer").status(), 200);
    }
}

/// Keeps so many connections that each send a byte of a head now and then, and come back when they are closed.
fn trickle(proxy: &Proxy, count: usize, stop: &Arc<AtomicBool>) -> (thread::JoinHandle<()>, Arc<AtomicUsize>) {
    let (address, stop, opened) = (proxy.address, stop.clone(), Arc::new(AtomicUsize::new(0)));
    let counter = opened.clone();
    let connect = move || -> Option<TcpStream> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_nonblocking(true).ok()?;
        counter.fetch_add(1, Ordering::Relaxed);
        Some(stream)
    };
    let thread = thread::spawn(move || {
        let mut streams: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
        while !stop.load(Ordering::Relaxed) {
            for stream in &mut streams {
                let is_alive = stream.as_mut().is_some_and(|stream| stream.write_all(b"P").is_ok());
                if !is_alive {
                    *stream = connect();
                }
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    });
    (thread, opened)
}

#[test]
fn thousands_that_trickle_do_not_keep_a_healthy_client_out() {
    const TRICKLING: usize = 2000;
    let proxy = with_places(500);
    let stop = Arc::new(AtomicBool::new(false));
    let (thread, opened) = trickle(&proxy, TRICKLING, &stop);
    let mut served = 0;
    while served < 50 || opened.load(Ordering::Relaxed) < TRICKLING {
        assert_eq!(proxy.post("/", "", "x").status(), 200);
        served += 1;
    }
    stop.store(true, Ordering::Relaxed);
    thread.join().expect("it ends");
    assert_eq!(proxy.post("/", "", "x").status(), 200);
}
