//! Requests and responses, read by the letter of RFC 9112: in doubt there is none.

/// A request as it stands on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    /// Names in lower case.
    pub(super) fields: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
}

/// A response as it stands on the wire.
#[derive(Debug, Default)]
pub(super) struct Response {
    status: u16,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// What the upstream says that it saw.
pub(super) const SEEN: &str = "x-seen";

/// A part of a message is not there yet, or is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    Cut,
    Malformed,
}

impl Request {
    /// Reads one request, and gives what follows it.
    pub(super) fn read(bytes: &[u8]) -> Result<(Request, &[u8]), Wrong> {
        let (line, rest) = line(bytes)?;
        let text = std::str::from_utf8(line).map_err(|_| Wrong::Malformed)?;
        let words: Vec<&str> = text.split(' ').collect();
        let [method, target, "HTTP/1.1"] = words[..] else { return Err(Wrong::Malformed) };
        // What is beyond ASCII goes on byte for byte, like all of a target.
        let is_target = target.bytes().all(|byte| (byte.is_ascii_graphic() && byte != b'#') || !byte.is_ascii());
        if !is_token(method.as_bytes()) || !is_target || target.is_empty() {
            return Err(Wrong::Malformed);
        }
        let (fields, rest) = fields(rest)?;
        let mut request = Request { method: method.to_owned(), target: target.to_owned(), fields, body: Vec::new() };
        if request.all("host").len() != 1 {
            return Err(Wrong::Malformed);
        }
        let (body, rest) = match (&request.all("transfer-encoding")[..], &request.all("content-length")[..]) {
            ([], []) => (Vec::new(), rest),
            ([], [length]) => {
                let length = number(length, 10, 6)?;
                let body = rest.get(..length).ok_or(Wrong::Cut)?;
                (body.to_vec(), &rest[length..])
            }
            ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") => chunks(rest)?,
            _ => return Err(Wrong::Malformed),
        };
        request.body = body;
        Ok((request, rest))
    }

    fn all(&self, name: &str) -> Vec<&[u8]> {
        all(&self.fields, name)
    }

    /// What the upstream is to say of it.
    pub(super) fn seen(&self) -> String {
        let hash = crc32fast::hash(&self.body);
        format!("{} {} {} {hash:08x}", self.method, origin_form(&self.target), self.body.len())
    }

    /// Whether it may be the last of its connection.
    pub(super) fn ends(&self) -> bool {
        ends(&self.fields)
    }
}

impl Response {
    fn read<'a>(bytes: &'a [u8], method: &str) -> Result<(Response, &'a [u8]), Wrong> {
        let (line, rest) = line(bytes)?;
        let line = line.strip_prefix(b"HTTP/1.1 ").ok_or(Wrong::Malformed)?;
        let status = number(line.get(..3).ok_or(Wrong::Malformed)?, 10, 3)? as u16;
        let (fields, rest) = fields(rest)?;
        let mut response = Response { status, fields, body: Vec::new() };
        let lengths = all(&response.fields, "content-length");
        // A head that the HTTP library cannot read is refused by those who do not know that it was one of HEAD.
        let is_unread_head = matches!(status, 400 | 431) && rest.starts_with(b"{");
        let has_body = (method != "HEAD" || is_unread_head) && !matches!(status, 100..=199 | 204 | 304);
        let length = match lengths[..] {
            [length] if has_body => number(length, 10, 6)?,
            [] if has_body => return Err(Wrong::Malformed),
            [] | [_] => 0,
            _ => return Err(Wrong::Malformed),
        };
        response.body = rest.get(..length).ok_or(Wrong::Cut)?.to_vec();
        Ok((response, &rest[length..]))
    }

    /// What the upstream saw; none when it was not asked.
    pub(super) fn seen(&self) -> Option<String> {
        let seen = all(&self.fields, SEEN);
        seen.first().map(|seen| String::from_utf8_lossy(seen).into_owned())
    }

    /// Whether it may be the last of its connection.
    pub(super) fn ends(&self) -> bool {
        ends(&self.fields)
    }
}

/// The requests of a connection up to the one that ends it; `None` when somebody may read them in another way.
pub(super) fn requests(mut bytes: &[u8]) -> Option<Vec<Request>> {
    let mut requests = Vec::new();
    while !bytes.is_empty() {
        let (request, rest) = Request::read(bytes).ok()?;
        // Waits and detours, and what is answered from the records.
        let is_special = ["expect", "upgrade", "idempotency-key"].iter().any(|name| !request.all(name).is_empty());
        if is_special || request.method == "CONNECT" {
            return None;
        }
        let ends = request.ends();
        requests.push(request);
        if ends {
            break;
        }
        bytes = rest;
    }
    Some(requests)
}

/// The responses to these requests, of which the last ones may be missing.
pub(super) fn responses(mut bytes: &[u8], requests: &[Request]) -> Vec<Response> {
    let mut responses = Vec::new();
    for request in requests {
        if bytes.is_empty() {
            break;
        }
        let (response, rest) = Response::read(bytes, &request.method)
            .unwrap_or_else(|wrong| panic!("{wrong:?}: {}", String::from_utf8_lossy(bytes)));
        assert!((200..600).contains(&response.status), "{response:?}");
        responses.push(response);
        bytes = rest;
    }
    assert!(bytes.is_empty(), "behind the last answer: {}", String::from_utf8_lossy(bytes));
    responses
}

fn origin_form(target: &str) -> String {
    let Some((_, rest)) = target.split_once("://").filter(|_| !target.starts_with('/')) else {
        return target.to_owned();
    };
    match rest.find(['/', '?']) {
        Some(at) if rest[at..].starts_with('/') => rest[at..].to_owned(),
        Some(at) => format!("/{}", &rest[at..]),
        None => "/".to_owned(),
    }
}

fn ends(fields: &[(String, Vec<u8>)]) -> bool {
    let values = all(fields, "connection");
    let mut options = values.iter().flat_map(|value| value.split(|&byte| byte == b','));
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

fn all<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Vec<&'a [u8]> {
    fields.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_slice()).collect()
}

/// A line without its end, and what follows.
fn line(bytes: &[u8]) -> Result<(&[u8], &[u8]), Wrong> {
    let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')).ok_or(Wrong::Cut)?;
    match bytes[end..] {
        [b'\r', b'\n', ..] => Ok((&bytes[..end], &bytes[end + 2..])),
        [b'\r'] => Err(Wrong::Cut),
        _ => Err(Wrong::Malformed),
    }
}

type Fields = Vec<(String, Vec<u8>)>;

fn fields(mut bytes: &[u8]) -> Result<(Fields, &[u8]), Wrong> {
    let mut fields = Vec::new();
    loop {
        let (line, rest) = line(bytes)?;
        bytes = rest;
        if line.is_empty() {
            return Ok((fields, bytes));
        }
        let colon = line.iter().position(|&byte| byte == b':').ok_or(Wrong::Malformed)?;
        let (name, value) = (&line[..colon], without_spaces(&line[colon + 1..]));
        let is_value = value.iter().all(|&byte| byte == b'\t' || byte >= b' ' && byte != 0x7f);
        if !is_token(name) || !is_value {
            return Err(Wrong::Malformed);
        }
        fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()));
    }
}

/// Takes spaces and tabs from both ends, and no other white space.
fn without_spaces(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A body in chunks without extensions and trailers, and what follows.
fn chunks(mut bytes: &[u8]) -> Result<(Vec<u8>, &[u8]), Wrong> {
    let mut body = Vec::new();
    loop {
        let (size, rest) = line(bytes)?;
        let size = number(size, 16, 5)?;
        let chunk = rest.get(..size).ok_or(Wrong::Cut)?;
        body.extend_from_slice(chunk);
        let (nothing, rest) = line(&rest[size..])?;
        if !nothing.is_empty() {
            return Err(Wrong::Malformed);
        }
        bytes = rest;
        if size == 0 {
            return Ok((body, bytes));
        }
    }
}

fn number(digits: &[u8], radix: u32, most: usize) -> Result<usize, Wrong> {
    let is_number = (1..=most).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number).ok_or(Wrong::Malformed)?;
    usize::from_str_radix(text, radix).map_err(|_| Wrong::Malformed)
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}
