//! Secrets that stand in a file are never shown: a message shows the line that it is about.

use super::diagnostic::{Span, closest};
use super::file::File;
use super::secret::Secret;

/// Settings whose line may hold a secret, however it is misspelt.
const SECRETS: [&str; 3] = ["token", "password", "secret"];

/// Settings that hold secrets and that this release does not read.
const NOT_READ: [&str; 2] = ["hmac_key", "encryption"];

/// A file's text with stars where its secrets are; every other byte stays in its place.
pub(super) fn masked(text: &str, file: Option<&File>) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let token = file.and_then(|file| file.admin.as_ref()?.value.token.as_ref());
    if let Some(token) = token.filter(|token| matches!(token.value, Secret::Written(_))) {
        cover(&mut bytes, token.span());
    }
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        secret_places(line).into_iter().for_each(|place| cover(&mut bytes, start + place.start..start + place.end));
        start += line.len();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn cover(bytes: &mut [u8], place: Span) {
    let secret = bytes.get_mut(place).into_iter().flatten();
    secret.filter(|byte| !byte.is_ascii() || byte.is_ascii_graphic() && **byte != b'"').for_each(|byte| *byte = b'*');
}

/// Where a line holds a secret, as far as a line by itself can tell: the file may not even be TOML.
fn secret_places(line: &str) -> Vec<Span> {
    let mut places = Vec::new();
    for (at, _) in line.match_indices('=') {
        let is_edge = |c: char| !(c.is_alphanumeric() || c == '_');
        let name = line[..at].trim_end().trim_end_matches(['"', '\'']).rsplit(is_edge).next().unwrap_or_default();
        let value = line[at + 1..].trim_start();
        let start = line.len() - value.len();
        let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''));
        match quote {
            _ if NOT_READ.contains(&name) => places.push(start..line.len()),
            Some(quote) if closest(name, &SECRETS).is_some() => {
                let end = value[1..].find(quote).map_or(line.len(), |end| start + 1 + end);
                places.push(start + 1..end);
            }
            _ => {}
        }
    }
    // The user and password of a URL.
    for (at, _) in line.match_indices("://") {
        let start = at + 3;
        let end = line[start..]
            .find(|c: char| c.is_whitespace() || c == '"' || c == '\'')
            .map_or(line.len(), |end| start + end);
        if let Some(user) = line[start..end].rfind('@') {
            places.push(start..start + user);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_covered_and_nothing_moves() {
        for (line, shown) in [
            ("token = \"hunter2\"", "token = \"*******\""),
            ("tokn = \"hünter2", "tokn = \"********"),
            ("token = { env = \"NAME\" }", "token = { env = \"NAME\" }"),
            ("\"token\" = 'hunter2'", "\"token\" = '*******'"),
            ("a = { token = 'hunter2', b = 1 }", "a = { token = '*******', b = 1 }"),
            ("url = \"redis://u:p@h/0\" # why", "url = \"redis://***@h/0\" # why"),
            ("key = \"required\"", "key = \"required\""),
            ("scope = [\"host\"]", "scope = [\"host\"]"),
        ] {
            assert_eq!(masked(line, None), shown);
            assert_eq!(masked(line, None).len(), line.len());
        }
    }
}
