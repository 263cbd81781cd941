//! Points at which a test kills the process. Compiled to nothing without the feature `failpoints`.
//!
//! The environment variable `ONCEPROXY_FAILPOINT` names one point. The thread that reaches it says so on standard
//! error, `failpoint NAME reached`, and stands still, so that the test can end the process exactly there.

/// Stands still here when the test asked for this point.
#[inline(always)]
pub fn reach(name: &'static str) {
    #[cfg(feature = "failpoints")]
    armed::reach(name);
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}

/// Stands still when a store call has been sent and its answer has not been read.
#[inline(always)]
pub async fn reach_when_sent<F: Future + Unpin>(name: &'static str, call: &mut F) {
    #[cfg(feature = "failpoints")]
    armed::reach_when_sent(name, call).await;
    #[cfg(not(feature = "failpoints"))]
    let _ = (name, call);
}

/// Says whether the test asked for this point, for points that need the ground prepared.
#[inline(always)]
pub fn is_armed(name: &'static str) -> bool {
    #[cfg(feature = "failpoints")]
    return armed::is_armed(name);
    #[cfg(not(feature = "failpoints"))]
    {
        let _ = name;
        false
    }
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::pin::Pin;
    use std::sync::LazyLock;
    use std::task::Poll;

    static ARMED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("ONCEPROXY_FAILPOINT").ok());

    pub(super) fn is_armed(name: &str) -> bool {
        ARMED.as_deref() == Some(name)
    }

    pub(super) fn reach(name: &str) {
        if is_armed(name) {
            eprintln!("failpoint {name} reached");
            loop {
                std::thread::park();
            }
        }
    }

    pub(super) async fn reach_when_sent<F: Future + Unpin>(name: &'static str, call: &mut F) {
        if !is_armed(name) {
            return;
        }
        let answered = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *call).poll(cx).is_ready())).await;
        assert!(!answered, "the call was answered before it was sent");
        // The task that owns the store's connection has to run to write the command.
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
        reach(name);
    }
}
