//! One client's connection: HTTP/1.1, or HTTP/2 by prior knowledge.

pub mod activity;
pub mod body;
mod socket;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::debug;

use crate::proxy::connection::activity::{Activity, MAX_GIVEN_UP};
use crate::proxy::connection::socket::{ClientSocket, Clocks, Protocol};
use crate::proxy::gateway::Connection;
use crate::proxy::generation::Seat;

/// What a client that speaks HTTP/2 without asking begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How much is read to tell the protocol.
const FRONT_BYTES: usize = 4096;
/// How long a connection that shall leave waits for a request that is on its way.
const LAST_REQUEST: Duration = Duration::from_millis(500);
const MAX_STREAMS: u32 = 128;
/// The largest head, whichever the protocol: a client that never ends it holds so much. Over HTTP/1 also what a connection
/// reads ahead, and how much it lets pile up of what it writes.
const MAX_HEAD_BYTES: u32 = 64 << 10;

/// Serves a connection until it ends, or until the last request after `leave` is answered.
pub(super) async fn serve(seat: Arc<Seat>, mut stream: TcpStream, address: SocketAddr, mut leave: Leave) {
    // The connection keeps the clocks that it began with; its requests have those of their own generation.
    let clocks = Clocks::of(seat.load().listener());
    let deadline = Instant::now() + clocks.head;
    let _ = stream.set_nodelay(true);
    let told = {
        let mut told = pin!(timeout_at(deadline, tell_protocol(&mut stream)));
        tokio::select! {
            told = &mut told => told,
            // Who has just connected has a request on the way.
            () = &mut leave => timeout(LAST_REQUEST, told).await.unwrap_or_else(Err),
        }
    };
    // It came to nothing: closed, broken, or silent.
    let Ok(Ok(Some((protocol, front)))) = told else { return };
    let activity = Arc::new(Activity::new());
    let connection = Arc::new(Connection::new(seat, address, activity.clone()));
    let answering = connection.clone();
    let service = service_fn(move |request| answering.clone().answer(request));
    let watched = activity.clone();
    let socket = ClientSocket::new(stream, front, activity, protocol, clocks, deadline);
    let ended = match protocol {
        Protocol::Http1 => {
            let mut builder = http1::Builder::new();
            // The socket keeps the clocks.
            builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(MAX_HEAD_BYTES as usize);
            let served = builder.serve_connection(socket, service).with_upgrades();
            let last = LastRequest::MayCome(&watched);
            let ended = until_left(served, |connection| connection.graceful_shutdown(), leave, last).await;
            if let Some(switch) = connection.take_switch() {
                // Boxed like the other rare one below.
                Box::pin(switch.run(clocks.idle)).await;
            }
            ended
        }
        Protocol::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_HEAD_BYTES);
            let served = builder.serve_connection(socket, service);
            let enough = async {
                tokio::select! {
                    () = leave => {}
                    () = watched.gives_up_more_than(MAX_GIVEN_UP) => debug!(peer = %address, "a client gives up much"),
                }
            };
            // Boxed: it is large, and the other connections would carry the room for it.
            Box::pin(async {
                tokio::select! {
                    ended = until_left(served, |connection| connection.graceful_shutdown(), enough, LastRequest::IsKnown)
                        => ended,
                    () = watched.stalls(clocks.write) => {
                        debug!(peer = %address, "a client takes nothing of an answer");
                        Ok(())
                    }
                    // It was told to leave, and goes on.
                    () = watched.gives_up_more_than(2 * MAX_GIVEN_UP) => Ok(()),
                }
            })
            .await
        }
    };
    if let Err(error) = ended {
        debug!(peer = %address, %error, "a connection ended early");
    }
}

/// Tells a connection that it shall leave; it may be asked again after that.
pub(super) struct Leave {
    /// Set before `told` ends.
    flag: Arc<AtomicBool>,
    told: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_listening: bool,
    has_been_told: bool,
}

impl Leave {
    pub(super) fn new(flag: Arc<AtomicBool>, told: impl Future<Output = ()> + Send + 'static) -> Leave {
        Leave { flag, told: Box::pin(told), is_listening: false, has_been_told: false }
    }
}

impl Future for Leave {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_been_told {
            return Poll::Ready(());
        }
        // Asked once, it wakes the task, which stays the same one. To ask at each wake would cost every request.
        if self.is_listening && !self.flag.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.is_listening = true;
        let told = self.told.as_mut().poll(cx);
        self.has_been_told = told.is_ready();
        told
    }
}

/// What a connection that shall leave knows of the request after which it does.
enum LastRequest<'a> {
    /// The client is told by the protocol which one counted.
    IsKnown,
    /// One may be on its way while the connection lies idle: the client could not tell whether it was read.
    MayCome(&'a Activity),
}

/// Runs a connection to its end; once it shall leave, it takes no more requests.
async fn until_left<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    say: impl FnOnce(Pin<&mut C>),
    leave: impl Future<Output = ()>,
    last: LastRequest<'_>,
) -> hyper::Result<()> {
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = &mut connection => return ended,
        () = leave => {}
    }
    // Boxed: only a connection that leaves has the room for it.
    if let LastRequest::MayCome(activity) = last
        && let Some(ended) = Box::pin(wait_for_last(connection.as_mut(), activity)).await
    {
        return ended;
    }
    say(connection.as_mut());
    connection.await
}

/// Waits until a request is under way, whose answer can say that it is the last one, or until none comes for a while.
/// An end of the connection is returned.
async fn wait_for_last<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<&mut C>,
    activity: &Activity,
) -> Option<hyper::Result<()>> {
    let mut none_comes = pin!(sleep(LAST_REQUEST));
    poll_fn(|cx| match connection.as_mut().poll(cx) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending if activity.is_busy() => Poll::Ready(None),
        Poll::Pending => none_comes.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// Reads until it is clear which protocol the client speaks; `None` when it closes before.
async fn tell_protocol(stream: &mut TcpStream) -> std::io::Result<Option<(Protocol, Bytes)>> {
    let mut front = BytesMut::new();
    loop {
        // Nothing is kept for a connection that is silent.
        stream.readable().await?;
        front.reserve(FRONT_BYTES);
        match stream.try_read_buf(&mut front) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let compared = front.len().min(PREFACE.len());
        if front[..compared] != PREFACE[..compared] {
            return Ok(Some((Protocol::Http1, front.freeze())));
        }
        if compared == PREFACE.len() {
            return Ok(Some((Protocol::Http2, front.freeze())));
        }
    }
}
