//! One client's connection: HTTP/1.1 or HTTP/2, in clear text or through TLS.

pub mod activity;
mod begin;
pub mod body;
mod socket;
mod stream;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

use crate::proxy::connection::activity::{Activity, MAX_GIVEN_UP};
use crate::proxy::connection::begin::{Begun, begin};
use crate::proxy::connection::socket::{ClientSocket, Clocks, Protocol};
use crate::proxy::gateway::Connection;
use crate::proxy::generation::Seat;
use crate::proxy::headers::Scheme;
use crate::proxy::listener::Socket;
use crate::proxy::listener::address::PeerAddress;
use crate::proxy::tls::ServerTls;

/// How long a connection that shall leave waits for a request that is on its way.
const LAST_REQUEST: Duration = Duration::from_millis(500);
const MAX_STREAMS: u32 = 128;
/// The largest head, whichever the protocol: a client that never ends it holds so much. Over HTTP/1 also what a connection
/// reads ahead, and how much it lets pile up of what it writes.
const MAX_HEAD_BYTES: u32 = 64 << 10;

/// A connection that has come to its worker.
pub(super) struct Arrival {
    pub(super) socket: Socket,
    pub(super) address: PeerAddress,
    pub(super) activity: Arc<Activity>,
    /// How it has to speak, unless in clear text.
    pub(super) tls: Option<Arc<ServerTls>>,
}

/// Serves a connection until it ends, or until the last request after `leave` is answered.
pub(super) async fn serve(seat: Arc<Seat>, arrival: Arrival, mut leave: Leave) {
    let Arrival { socket, address, activity, tls } = arrival;
    // The connection keeps the clocks that it began with; its requests have those of their own generation.
    let clocks = Clocks::of(seat.load().listener());
    let deadline = Instant::now() + clocks.head;
    let begun = {
        let patience = pin!(async {
            tokio::select! {
                () = sleep_until(deadline) => {}
                // Who has just connected has a request on the way.
                () = &mut leave => sleep(LAST_REQUEST).await,
                () = poll_fn(|cx| activity.poll_asked_to_leave(cx)) => {}
            }
        });
        begin(socket, tls.as_deref(), &activity, patience).await
    };
    let Begun { stream, protocol, front, client_cert } = match begun {
        Ok(Some(begun)) => begun,
        // It came to nothing: closed, silent, broken, or no TLS.
        nothing => {
            if let Err(error) = nothing {
                debug!(peer = %address, %error, "a connection ended before its first request");
            }
            if let Some((status, code)) = activity.socket_refused() {
                Connection::new(seat, address, Scheme::Http, None, activity).socket_refused(status, code);
            }
            return;
        }
    };
    // It was waited for the first request, and nothing came.
    let has_had_its_time = leave.has_been_told && front.is_empty();
    let scheme = if tls.is_some() { Scheme::Https } else { Scheme::Http };
    drop(tls);
    let connection = Arc::new(Connection::new(seat, address, scheme, client_cert, activity.clone()));
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
            let last = if has_had_its_time { LastRequest::IsKnown } else { LastRequest::MayCome(&watched) };
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
                    () = watched.stalls(clocks.write) => debug!(peer = %address, "a client takes nothing of an answer"),
                }
            };
            // Boxed: it is large, and the other connections would carry the room for it.
            Box::pin(async {
                tokio::select! {
                    ended = until_left(served, |connection| connection.graceful_shutdown(), enough, LastRequest::IsKnown)
                        => ended,
                    // It was told to leave, and has nothing else under way, or has had the time for it.
                    () = watched.stalls_alone(clocks.write) => Ok(()),
                    // Likewise, and goes on.
                    () = watched.gives_up_more_than(2 * MAX_GIVEN_UP) => Ok(()),
                }
            })
            .await
        }
    };
    if let Some((status, code)) = watched.socket_refused() {
        connection.socket_refused(status, code);
    }
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
    /// The client is told by the protocol which one counted, or has had the time for it.
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
