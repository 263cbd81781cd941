//! After a switch of protocols (RFC 9110 section 7.8): what comes from one side goes to the other, and nobody looks
//! into it.
//!
//! The client's connection keeps its task, and so its place among the connections: a shutdown waits for it as for any
//! other. The upstream's keeps a place in its pool.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use crate::proxy::BoxError;
use crate::proxy::upstream::body::Sent;
use crate::proxy::upstream::lease::Lease;
use crate::proxy::upstream::pool::Place;

/// How much is on its way in one direction.
const BUFFER_BYTES: usize = 8 << 10;

/// What becomes of a client's socket when HTTP has ended on it, once a request has asked for another protocol. hyper
/// closes such a socket no more: that is left to us, whatever the answer was.
pub(super) struct Switch {
    client: OnUpgrade,
    /// There when the upstream said yes.
    upstream: Option<Box<UpstreamEnd>>,
}

/// The upstream's connection, which speaks another protocol from now on.
pub(super) struct UpstreamEnd {
    socket: OnUpgrade,
    lease: Lease<Sent>,
    place: Place<Sent>,
    patience: Duration,
}

/// An upstream's end on its way through a response's extensions; whoever takes it first has it.
#[derive(Clone)]
pub(super) struct Switched(Arc<Mutex<Option<Box<UpstreamEnd>>>>);

/// When a byte was last moved, in either direction.
struct Clock {
    began: Instant,
    /// Nanoseconds after `began`.
    last_move: AtomicU64,
    limit: Duration,
}

/// How a tunnel came to its end.
#[derive(Debug)]
enum End {
    /// Both sides said that they are done.
    Closed,
    /// Nothing was moved for too long.
    Idle,
}

impl Switch {
    /// A socket of which it is not known yet whether it switches.
    pub(super) fn new(client: OnUpgrade) -> Switch {
        Switch { client, upstream: None }
    }

    /// The upstream has switched.
    pub(super) fn joins(&mut self, switched: &Switched) {
        self.upstream = switched.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Does what is left to do when the connection has ended as one of HTTP: copies both ways, for as long as something
    /// moves, or closes the socket. Nothing may move for `idle_limit` or as long as the upstream may take for an
    /// answer, whichever is longer.
    pub(super) async fn run(self, idle_limit: Duration) {
        let Ok(client) = self.client.await else {
            // It broke before the switch.
            return;
        };
        let mut client = TokioIo::new(client);
        let Some(upstream) = self.upstream else {
            let _ = client.shutdown().await;
            return;
        };
        let limit = idle_limit.max(upstream.patience);
        match upstream.join(client, limit).await {
            Ok(end) => debug!(?end, "a switched connection has ended"),
            Err(error) => debug!(%error, "a switched connection broke off"),
        }
    }
}

impl UpstreamEnd {
    pub(super) fn new(socket: OnUpgrade, lease: Lease<Sent>, patience: Duration) -> UpstreamEnd {
        UpstreamEnd { socket, place: lease.place_after(), lease, patience }
    }

    async fn join(self, client: TokioIo<Upgraded>, limit: Duration) -> Result<End, BoxError> {
        // It comes when the request has been sent whole.
        let upstream = TokioIo::new(timeout(limit, self.socket).await??);
        drop(self.lease);
        let ended = copy_both(client, upstream, limit).await;
        drop(self.place);
        Ok(ended?)
    }
}

impl Switched {
    pub(super) fn new(upstream: UpstreamEnd) -> Switched {
        Switched(Arc::new(Mutex::new(Some(Box::new(upstream)))))
    }
}

impl Clock {
    fn new(limit: Duration) -> Clock {
        Clock { began: Instant::now(), last_move: AtomicU64::new(0), limit }
    }

    fn moved(&self) {
        let since = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last_move.store(since, Ordering::Release);
    }

    async fn runs_out(&self) {
        loop {
            let end = self.began + Duration::from_nanos(self.last_move.load(Ordering::Acquire)) + self.limit;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

/// Copies both ways until both sides have ended, one breaks, or nothing was moved for too long. The end of one side is
/// told to the other, which may still send.
async fn copy_both(
    client: impl AsyncRead + AsyncWrite,
    upstream: impl AsyncRead + AsyncWrite,
    limit: Duration,
) -> io::Result<End> {
    let clock = Clock::new(limit);
    let (from_client, to_client) = split(client);
    let (from_upstream, to_upstream) = split(upstream);
    let both =
        async { tokio::try_join!(copy(from_client, to_upstream, &clock), copy(from_upstream, to_client, &clock)) };
    tokio::select! {
        ended = both => ended.map(|_| End::Closed),
        () = clock.runs_out() => Ok(End::Idle),
    }
}

/// Copies to the end of `from`, or until `to` takes no more: what that side sent before is still on its way.
///
/// # Errors
/// `from` breaks.
async fn copy(from: impl AsyncRead, to: impl AsyncWrite, clock: &Clock) -> io::Result<()> {
    let (mut from, mut to) = (pin!(from), pin!(to));
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        clock.moved();
        let written = match length {
            0 => to.shutdown().await,
            length => write_whole(to.as_mut(), &buffer[..length], clock).await,
        };
        if let Err(error) = &written {
            debug!(%error, "one side of a tunnel takes no more");
        }
        if length == 0 || written.is_err() {
            return Ok(());
        }
    }
}

async fn write_whole(mut to: Pin<&mut impl AsyncWrite>, mut rest: &[u8], clock: &Clock) -> io::Result<()> {
    while !rest.is_empty() {
        match to.write(rest).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            length => rest = &rest[length..],
        }
        clock.moved();
    }
    to.flush().await
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nothing_moves_and_only_then_h26() {
        let limit = Duration::from_secs(10);
        let ((mut client, inner), (outer, mut upstream)) = (duplex(64), duplex(64));
        let began = Instant::now();
        let tunnel = tokio::spawn(copy_both(inner, outer, limit));
        for n in 0..5 {
            tokio::time::sleep(limit - Duration::from_secs(1)).await;
            let (from, to) = if n % 2 == 0 { (&mut client, &mut upstream) } else { (&mut upstream, &mut client) };
            from.write_all(b"x").await.expect("it is read");
            assert_eq!(to.read_u8().await.expect("it is passed on"), b'x');
        }
        assert!(matches!(tunnel.await.expect("no panic").expect("no error"), End::Idle));
        assert_eq!(began.elapsed().as_secs(), 5 * 9 + 10);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_one_side_leaves_the_other_to_finish_h26() {
        let ((mut client, inner), (outer, mut upstream)) = (duplex(64), duplex(64));
        let tunnel = tokio::spawn(copy_both(inner, outer, Duration::from_secs(10)));
        client.write_all(b"question").await.expect("it is read");
        client.shutdown().await.expect("it ends");
        let mut read = Vec::new();
        upstream.read_to_end(&mut read).await.expect("an end");
        assert_eq!(read, b"question");
        read.clear();
        let answering = async move { upstream.write_all(&[7; 1000]).await.expect("it is read") };
        let (_, read_bytes) = tokio::join!(answering, client.read_to_end(&mut read));
        assert_eq!(read_bytes.expect("an end"), 1000);
        assert_eq!(read, [7; 1000]);
        assert!(matches!(tunnel.await.expect("no panic").expect("no error"), End::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_takes_nothing_is_idle_too_h26() {
        let ((mut client, inner), (outer, upstream)) = (duplex(64), duplex(64));
        let tunnel = tokio::spawn(copy_both(inner, outer, Duration::from_secs(10)));
        let sending = tokio::spawn(async move { while client.write_all(&[0; 64]).await.is_ok() {} });
        assert!(matches!(tunnel.await.expect("no panic").expect("no error"), End::Idle));
        drop(upstream);
        sending.await.expect("it is told");
    }
}
