//! Who is at the keyboard.

/// The login name: the environment's, else the one that the system has for this user, else the user's number.
pub(super) fn name() -> String {
    let of_environment = ["LOGNAME", "USER", "USERNAME"].into_iter().find_map(|variable| std::env::var(variable).ok());
    of_environment.filter(|name| !name.trim().is_empty()).unwrap_or_else(of_system)
}

#[cfg(unix)]
fn of_system() -> String {
    let number = rustix::process::getuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_of(number, &users).map_or_else(|| format!("uid-{number}"), str::to_owned)
}

#[cfg(not(unix))]
fn of_system() -> String {
    "operator".to_owned()
}

/// Finds a user in the lines of a passwd file.
#[cfg(unix)]
fn name_of(number: u32, users: &str) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid) = (fields.next()?, fields.next()?, fields.next()?);
        (uid.parse() == Ok(number) && !name.is_empty()).then_some(name)
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\n\nbroken\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        assert_eq!(name_of(1000, users), Some("alice"));
        assert_eq!(name_of(7, users), None);
    }
}
