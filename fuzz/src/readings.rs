//! How servers read a path: an upstream may be any of them.

use std::collections::BTreeSet;

/// Each path that some server takes this one for.
pub(crate) fn of(path: &str) -> BTreeSet<String> {
    let mut read = BTreeSet::new();
    for decode in [Decode::Unreserved, Decode::All] {
        let plain = decoded(path, decode);
        for spelled in [&plain, &plain.replace('\\', "/")] {
            insert(&mut read, spelled);
            insert(&mut read, &without_parameters(spelled));
        }
        let cut = decoded(&without_parameters(path), decode);
        insert(&mut read, &cut);
        insert(&mut read, &cut.replace('\\', "/"));
    }
    read
}

fn insert(read: &mut BTreeSet<String>, path: &str) {
    read.extend([resolved(path, Slashes::Merged), resolved(path, Slashes::Kept)]);
}

/// Which escapes are decoded before a path is looked at.
#[derive(Clone, Copy)]
enum Decode {
    Unreserved,
    All,
}

/// What becomes of empty segments.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slashes {
    Merged,
    Kept,
}

fn decoded(path: &str, decode: Decode) -> String {
    let mut bytes = path.bytes().collect::<Vec<u8>>();
    let mut at = 0;
    while at + 2 < bytes.len() {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        if let (b'%', Some(high), Some(low)) = (bytes[at], digit(bytes[at + 1]), digit(bytes[at + 2])) {
            let letter = (high * 16 + low) as u8;
            let is_decoded = match decode {
                Decode::Unreserved => letter.is_ascii_alphanumeric() || b"-._~".contains(&letter),
                Decode::All => (0x20..0x7f).contains(&letter),
            };
            if is_decoded {
                bytes.splice(at..at + 3, [letter]);
            }
        }
        at += 1;
    }
    String::from_utf8(bytes).expect("ASCII in the place of ASCII")
}

/// Cuts off what stands behind a `;` in a segment. A servlet container does it before it decodes, others after.
fn without_parameters(path: &str) -> String {
    path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect::<Vec<_>>().join("/")
}

/// The path with its dots followed; a slash at the end does not count.
fn resolved(path: &str, slashes: Slashes) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            "" if slashes == Slashes::Merged => {}
            segment => segments.push(segment),
        }
    }
    let path = segments.join("/");
    format!("/{}", path.trim_matches('/'))
}
