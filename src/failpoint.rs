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
    use std::sync::LazyLock;

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
}
