//! The admin token: from the environment, or from a file in the working directory that `run` writes by itself.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::Failure;

/// The variable that the token is in.
pub(super) const VARIABLE: &str = "ONCEPROXY_ADMIN_TOKEN";
/// The file that it is in otherwise, so that `records` works in the folder in which `run` runs.
pub(super) const FILE: &str = "onceproxy.token";
/// How many random bytes a token has.
const BYTES: usize = 24;

/// Where a token came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// From the environment.
    Environment,
    /// From a file that was there.
    File(PathBuf),
    /// From a file that was made now.
    NewFile(PathBuf),
}

/// The token of the environment, if it has one.
pub(super) fn from_environment() -> Option<SecretString> {
    std::env::var(VARIABLE).ok().filter(|token| !token.is_empty()).map(SecretString::from)
}

/// The token by which this folder's proxy is asked: the environment's, else the file's, else none.
pub(super) fn known() -> Result<Option<SecretString>, Failure> {
    if let Some(token) = from_environment() {
        return Ok(Some(token));
    }
    match read(Path::new(FILE)) {
        Ok(token) => Ok(Some(token)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::Failed(format!("cannot read ./{FILE}: {error}"))),
    }
}

/// The token of a proxy that runs in this folder; makes the file where there is neither.
pub(super) fn known_or_new() -> Result<(SecretString, Source), Failure> {
    match from_environment() {
        Some(token) => Ok((token, Source::Environment)),
        None => in_file(Path::new(FILE)),
    }
}

fn in_file(path: &Path) -> Result<(SecretString, Source), Failure> {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match create(path) {
        Ok(token) => Ok((token, Source::NewFile(whole))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match read(path) {
            Ok(token) => Ok((token, Source::File(whole))),
            Err(error) => Err(Failure::Failed(format!("cannot read the admin token in {}: {error}", whole.display()))),
        },
        Err(error) => Err(Failure::Failed(format!("cannot write an admin token to {}: {error}", whole.display()))),
    }
}

fn read(path: &Path) -> io::Result<SecretString> {
    let text = fs::read_to_string(path)?;
    match text.trim() {
        "" => Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty; delete it, and it is made anew")),
        token => Ok(token.into()),
    }
}

/// Writes a fresh token where there is no file; only its owner may read it.
fn create(path: &Path) -> io::Result<SecretString> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    let token = random(BYTES);
    file.write_all(format!("{token}\n").as_bytes())?;
    Ok(token.into())
}

/// Random bytes in hexadecimal digits.
pub(super) fn random(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).expect("the operating system has random bytes");
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        let (first, source) = in_file(&path).expect("it is made");
        assert_eq!(source, Source::NewFile(path.clone()));
        assert_eq!(first.expose_secret().len(), 2 * BYTES);
        let (second, source) = in_file(&path).expect("it is read");
        assert_eq!(source, Source::File(path.clone()));
        assert_eq!(first.expose_secret(), second.expose_secret());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(&path).expect("it is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn an_empty_file_is_no_token() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        fs::write(&path, "\n").expect("it is written");
        assert!(matches!(in_file(&path), Err(Failure::Failed(message)) if message.contains("empty")));
    }
}
