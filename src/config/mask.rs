//! Secrets that stand in a file are never shown: a message shows the line that it is about.

use super::diagnostic::Span;
use super::file::File;
use super::secret::Secret;

/// Settings that hold secrets, those of later releases too.
const SECRETS: [&str; 5] = ["token", "password", "secret", "hmac_key", "encryption"];

/// How many letters of such a name may be wrong, one too many, or missing.
const SLIPS: usize = 2;

/// A file's text with stars where its secrets are; every other byte stays in its place.
pub(super) fn masked(text: &str, file: Option<&File>) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let token = file.and_then(|file| file.admin.as_ref()?.value.token.as_ref());
    if let Some(token) = token.filter(|token| matches!(token.value, Secret::Written(_))) {
        cover(&mut bytes, token.span());
    }
    secret_values(text).into_iter().chain(users_of_urls(text)).for_each(|place| cover(&mut bytes, place));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn cover(bytes: &mut [u8], place: Span) {
    let secret = bytes.get_mut(place).into_iter().flatten();
    secret.filter(|byte| !byte.is_ascii() || byte.is_ascii_graphic() && **byte != b'"').for_each(|byte| *byte = b'*');
}

/// The values of settings that may hold a secret. The text may not even be TOML: in doubt it is one.
fn secret_values(text: &str) -> Vec<Span> {
    let is_edge = |c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    let mut places = Vec::new();
    for (at, sign) in text.match_indices(['=', ':']) {
        let before = text[..at].trim_end_matches([' ', '\t', '"', '\'']);
        let name = before.rsplit(is_edge).next().unwrap_or_default();
        let begins_line = before[..before.len() - name.len()].trim_end_matches([' ', '\t', '"', '\'']).ends_with('\n');
        let is_value = sign == "=" || begins_line || before.len() == name.len();
        let is_in_secret = !matches!(name, "env" | "file") && is_secret(table_before(before));
        if is_value && (is_secret(name) || is_in_secret) {
            let value = text[at + 1..].trim_start_matches([' ', '\t']);
            let start = text.len() - value.len();
            places.extend(secret_part(value).map(|part| start + part.start..start + part.end));
        }
    }
    places
}

/// The name of the last `[table]` that begins in a text.
fn table_before(text: &str) -> &str {
    let mut lines = text.rsplit('\n').map(str::trim_start);
    lines.find_map(|line| line.strip_prefix('[')?.split(']').next()).unwrap_or_default()
}

/// Whether a setting may hold a secret, however it is misspelt.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRETS.iter().any(|secret| name.contains(secret) || strsim::osa_distance(&name, secret) <= SLIPS)
}

/// What is secret of a value that has more text behind it; nothing when it only says where the secret is.
fn secret_part(value: &str) -> Option<Span> {
    let line = value.lines().next().unwrap_or_default();
    for quotes in ["\"\"\"", "'''"] {
        if let Some(rest) = value.strip_prefix(quotes) {
            let end = rest.find(quotes).map_or(value.len(), |end| quotes.len() + end);
            return Some(0..end.max(line.len()));
        }
    }
    let end = match value.as_bytes().first()? {
        // It may stand in the lines below.
        b'{' | b'[' if !line.contains(['}', ']']) => return Some(0..value.find(['}', ']']).unwrap_or(value.len())),
        _ if line.is_empty() => {
            let begin = value.len() - value.trim_start().len();
            return Some(0..value[begin..].find('\n').map_or(value.len(), |end| begin + end));
        }
        b'"' => end_of_text(line, true),
        b'\'' => end_of_text(line, false),
        b'{' if says_where(line) => return None,
        _ => None,
    };
    Some(match end {
        Some(end) => 1..end,
        None => 0..line.len(),
    })
}

/// Where the text in quotes ends that a line begins with; none when what follows shows that it is not its end.
fn end_of_text(line: &str, has_escapes: bool) -> Option<usize> {
    let quote = line.chars().next()?;
    let mut is_escaped = false;
    for (at, letter) in line.char_indices().skip(1) {
        if letter == quote && !is_escaped {
            let next = line[at + 1..].trim_start().chars().next();
            return next.is_none_or(|next| matches!(next, ',' | '}' | ']' | '#')).then_some(at);
        }
        is_escaped = has_escapes && letter == '\\' && !is_escaped;
    }
    None
}

/// Whether a line begins with `{ env = "…" }` or `{ file = "…" }`.
fn says_where(line: &str) -> bool {
    let Some((table, _)) = line[1..].split_once('}') else { return false };
    let Some((name, place)) = table.split_once('=') else { return false };
    let place = place.trim();
    let is_text = place.starts_with(['"', '\'']) && end_of_text(place, true) == Some(place.len() - 1);
    matches!(name.trim(), "env" | "file") && is_text
}

/// The user and password of each URL.
fn users_of_urls(text: &str) -> Vec<Span> {
    let mut places = Vec::new();
    for (at, _) in text.match_indices("://") {
        let start = at + 3;
        // A quote may be a part of it.
        let end = text[start..].find(char::is_whitespace).map_or(text.len(), |end| start + end);
        places.extend(text[start..end].rfind('@').map(|user| start..start + user));
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
            ("tokens = [\"hunter2\"]", "tokens = *\"*******\"*"),
            ("token = hunter2", "token = *******"),
            ("token = \"\"\"hunter2\nhunter3\"\"\" x", "token = \"\"\"*******\n*******\"\"\" x"),
            ("token = \"a\\\"hunter2\" # why", "token = \"**\"*******\" # why"),
            ("token = \"a\"hunter2\"\nkey = 1", "token = \"*\"*******\"\nkey = 1"),
            ("token = { envv = \"hunter2\" }", "token = * **** * \"*******\" *"),
            ("hmac_key = { env = \"NAME\" }", "hmac_key = { env = \"NAME\" }"),
            ("token.value = \"hunter2\"", "token.value = \"*******\""),
            ("[admin.token]\nvalue = \"hunter2\"\n[x]\na = 1", "[admin.token]\nvalue = \"*******\"\n[x]\na = 1"),
            ("[admin.token]\nenv = \"NAME\"", "[admin.token]\nenv = \"NAME\""),
            ("token = {\n envv = \"hunter2\"\n}\na = 1", "token = *\n **** * \"*******\"\n}\na = 1"),
            ("token =\n \"hunter2\"\na = 1", "token =\n \"*******\"\na = 1"),
            ("token: \"hunter2\"", "token: \"*******\""),
            ("url = \"redis://u:hun'ter2@h/0\"", "url = \"redis://**********@h/0\""),
            ("cert = \"cert.pem\"", "cert = \"cert.pem\""),
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
