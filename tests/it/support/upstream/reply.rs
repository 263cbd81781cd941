//! What the upstream does with one request, well or badly.

use std::time::Duration;

use super::super::waiting::Signal;

/// The script for one request. The upstream has read the whole request before it begins.
#[derive(Clone)]
pub struct Reply {
    pub(super) status: u16,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) framing: Framing,
    pub(super) trailers: Vec<(String, String)>,
    pub(super) waits_for: Option<Signal>,
    pub(super) delay: Duration,
    pub(super) acts: bool,
    pub(super) manner: Manner,
    pub(super) afterwards: Afterwards,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length,
    Chunked,
}

/// How the answer is given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Whole,
    /// So many bytes of it, then the end.
    Cut(usize),
    /// None, and a reset.
    Reset,
    /// None, until the other side closes.
    Silence,
}

/// What becomes of the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Afterwards {
    Keep,
    /// Closed without a word of it in the answer.
    Close,
    /// Kept until the next request's first byte comes, then reset.
    ResetNext,
}

impl Reply {
    /// An answer with this status.
    pub fn status(status: u16) -> Reply {
        Reply {
            status,
            fields: Vec::new(),
            body: Vec::new(),
            framing: Framing::Length,
            trailers: Vec::new(),
            waits_for: None,
            delay: Duration::ZERO,
            acts: true,
            manner: Manner::Whole,
            afterwards: Afterwards::Keep,
        }
    }

    /// Acts, then resets the connection.
    pub fn reset() -> Reply {
        Reply { manner: Manner::Reset, ..Reply::status(200) }
    }

    /// Acts, then says nothing until the other side gives up.
    pub fn silence() -> Reply {
        Reply { manner: Manner::Silence, ..Reply::status(200) }
    }

    pub fn field(mut self, name: &str, value: &str) -> Reply {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Reply {
        self.body = body.into();
        self
    }

    /// Sends the body in chunks instead of announcing its length.
    pub fn chunked(mut self) -> Reply {
        self.framing = Framing::Chunked;
        self
    }

    /// Sends a field behind the chunks.
    pub fn trailer(mut self, name: &str, value: &str) -> Reply {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self.chunked()
    }

    /// Acts at once, but answers only after the signal.
    pub fn after(mut self, signal: &Signal) -> Reply {
        self.waits_for = Some(signal.clone());
        self
    }

    /// Acts at once, but answers only after so long.
    pub fn delay(mut self, delay: Duration) -> Reply {
        self.delay = delay;
        self
    }

    /// Answers without having acted: no execution is counted.
    pub fn without_acting(mut self) -> Reply {
        self.acts = false;
        self
    }

    /// Sends only so many bytes of the answer, then closes.
    pub fn cut_after(mut self, bytes: usize) -> Reply {
        self.manner = Manner::Cut(bytes);
        self
    }

    /// Closes the connection after the answer, unannounced.
    pub fn then_close(mut self) -> Reply {
        self.afterwards = Afterwards::Close;
        self
    }

    /// Keeps the connection until the next request begins to come, then resets it.
    pub fn then_reset_next(mut self) -> Reply {
        self.afterwards = Afterwards::ResetNext;
        self
    }

    /// The answer's bytes.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} Status\r\n", self.status);
        for (name, value) in &self.fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Framing::Length = self.framing {
            let mut bytes = format!("{text}content-length: {}\r\n\r\n", self.body.len()).into_bytes();
            bytes.extend_from_slice(&self.body);
            return bytes;
        }
        let mut bytes = format!("{text}transfer-encoding: chunked\r\n\r\n").into_bytes();
        for chunk in self.body.chunks(16) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n");
        for (name, value) in &self.trailers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}
