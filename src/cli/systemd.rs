//! What a supervisor hands over and wants to hear: sockets that listen already (`LISTEN_FDS`), and moments of the
//! process's life (`NOTIFY_SOCKET`), as systemd does it.

#[cfg(unix)]
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use super::Failure;
use crate::app::Moment;
use crate::app::listen::Inherited;

/// The first descriptor that is handed over.
#[cfg(unix)]
const FIRST: RawFd = 3;
/// More sockets than anybody means to hand over.
#[cfg(unix)]
const MOST: usize = 16;

/// Takes the sockets that were handed over to this process.
#[cfg(unix)]
pub(super) fn sockets() -> Result<Inherited, Failure> {
    let variable = |name| std::env::var(name).ok();
    let (pid, count, names) = (variable("LISTEN_PID"), variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"));
    if pid.and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
        // Meant for another process, or nothing was handed over.
        return Ok(Inherited::default());
    }
    let places = assign(count.as_deref().unwrap_or_default(), names.as_deref()).map_err(Failure::Failed)?;
    let take = |fd: RawFd| {
        #[expect(unsafe_code, reason = "the descriptor was handed over by number, and each is taken once")]
        // SAFETY: `LISTEN_PID` says that it is this process's own, and nothing else here uses it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let _ = rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC);
        std::net::TcpListener::from(socket)
    };
    Ok(Inherited { data: places.data.map(take), admin: places.admin.map(take) })
}

#[cfg(not(unix))]
pub(super) fn sockets() -> Result<Inherited, Failure> {
    Ok(Inherited::default())
}

/// Which descriptor is for what.
#[cfg(unix)]
#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    data: Option<RawFd>,
    admin: Option<RawFd>,
}

/// Reads `LISTEN_FDS` and `LISTEN_FDNAMES`. One without a name of ours is the data socket, if it is the only such one.
#[cfg(unix)]
fn assign(count: &str, names: Option<&str>) -> Result<Places, String> {
    let count: usize = count.parse().map_err(|_| format!("LISTEN_FDS is {count:?}, which is not a number"))?;
    if count > MOST {
        return Err(format!("{count} sockets were handed over, but there is use for two"));
    }
    let mut names = names.unwrap_or_default().split(':');
    let mut places = Places::default();
    for fd in (FIRST..).take(count) {
        let name = names.next().unwrap_or_default();
        let place = if name == "admin" { &mut places.admin } else { &mut places.data };
        if place.replace(fd).is_some() {
            return Err(format!(
                "two of the sockets that were handed over are for the {} listener: name one `data` and one `admin` \
                 (FileDescriptorName=)",
                if name == "admin" { "admin" } else { "data" }
            ));
        }
    }
    Ok(places)
}

/// Tells the supervisor, if there is one that listens.
pub(super) fn tell(moment: Moment) {
    #[cfg(target_os = "linux")]
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = notify(&path, &words(moment))
    {
        tracing::warn!(%error, "the supervisor could not be told: {moment:?}");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = moment;
}

#[cfg(target_os = "linux")]
fn words(moment: Moment) -> String {
    match moment {
        Moment::Ready => "READY=1".to_owned(),
        Moment::Reloading => {
            // With the time the supervisor tells this reload from an earlier one.
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
            format!("RELOADING=1\nMONOTONIC_USEC={micros}")
        }
        Moment::Stopping => "STOPPING=1".to_owned(),
    }
}

#[cfg(target_os = "linux")]
fn notify(path: &std::ffi::OsStr, words: &str) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let address = match path.as_bytes() {
        // A name without a file.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(words.as_bytes(), &address).map(drop)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn names_tell_which_socket_is_for_what() {
        let data_only = Ok(Places { data: Some(3), admin: None });
        assert_eq!(assign("0", None), Ok(Places::default()));
        assert_eq!(assign("1", None), data_only);
        // What systemd calls a socket that was given no name.
        assert_eq!(assign("1", Some("onceproxy.socket")), data_only);
        assert_eq!(assign("2", Some("admin:data")), Ok(Places { data: Some(4), admin: Some(3) }));
        assert_eq!(assign("2", Some("data:admin")), Ok(Places { data: Some(3), admin: Some(4) }));
        for (count, names) in [("2", None), ("2", Some("admin:admin")), ("x", None), ("-1", None), ("99", None)] {
            assert!(assign(count, names).is_err(), "{count} {names:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_reload_is_told_with_its_time() {
        assert_eq!(words(Moment::Ready), "READY=1");
        let reloading = words(Moment::Reloading);
        let (head, micros) = reloading.split_once("MONOTONIC_USEC=").expect("the time");
        assert_eq!((head, micros.parse::<u64>().is_ok()), ("RELOADING=1\n", true));
    }
}
