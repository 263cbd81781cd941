//! What the demo prints: commands to copy, and what each of them shows.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::header::HOST;
use http::{HeaderValue, Request};

use super::payments::{FIRST_LOST, charge};
use crate::app::Started;
use crate::cli::token;
use crate::http::keyed::record_id;
use crate::http::policy::Policy;
use crate::key::Key;

const FIRST: &str = "order-1";
const SECOND: &str = "order-2";
const FIRST_AMOUNT: u64 = 500;
const SECOND_AMOUNT: u64 = 700;

/// What the commands are made of.
pub(super) struct Tour {
    pub(super) started: Started,
    pub(super) api: SocketAddr,
    pub(super) token: String,
    pub(super) policy: Option<Arc<Policy>>,
}

impl Tour {
    /// A first answer, its replay, and a key that is used for something else.
    pub(super) fn of_a_replay(&self) -> String {
        let pay = self.pay(FIRST, FIRST_AMOUNT);
        let pay_more = self.pay(FIRST, 900);
        let look = self.look();
        format!(
            "{head}\n\
             # 1. Pay. The API charges {FIRST_AMOUNT}: 201.\n{pay}\n\n\
             # 2. The same again, as after a lost answer: the first answer, marked Idempotency-Replayed: true.\n{pay}\n\n\
             # 3. The same key for another amount: 422, key-reused.\n{pay_more}\n\n\
             # 4. What the API did: one charge.\n{look}\n\n\
             {tail}\n\
             To see an outcome that nobody knows: onceproxy demo --chaos\n",
            head = self.head(),
            tail = self.tail(),
        )
    }

    /// An answer that is lost behind the API's back, and how it is put right.
    pub(super) fn of_an_unknown_outcome(&self) -> String {
        let pay = self.pay(FIRST, FIRST_AMOUNT);
        let pay_second = self.pay(SECOND, SECOND_AMOUNT);
        let look = self.look();
        let list = self.records("list --state unknown");
        let settle = self.records(&format!(
            "settle {} --attempt 1 --status 201 --header 'content-type: application/json' --body '{}' \
             --reason 'it is in the list of charges'",
            self.record_of(SECOND),
            charge(FIRST_LOST, SECOND_AMOUNT),
        ));
        format!(
            "The API drops every fifth answer after it has charged: the 2nd, the 7th, the 12th, ...\n\
             {head}\n\
             # 1. Pay. This answer arrives: 201.\n{pay}\n\n\
             # 2. Pay for another order. The API charges, its answer is lost: 502, upstream-lost.\n{pay_second}\n\n\
             # 3. The same again. It may have happened, so it is not done again: 409, outcome-unknown.\n{pay_second}\n\n\
             # 4. What the API did: ch_2 is there, once.\n{look}\n\n\
             # 5. What onceproxy knows.\n{list}\n\n\
             # 6. You have seen that it happened: settle it with the answer that was lost.\n{settle}\n\n\
             # 7. The same again: 201, the answer that you gave.\n{pay_second}\n\n\
             {tail}\n",
            head = self.head(),
            tail = self.tail(),
        )
    }

    fn head(&self) -> String {
        format!(
            "A payments API runs on {}, and onceproxy before it on {}.\nTry this in another terminal:\n",
            self.api, self.started.data
        )
    }

    fn tail(&self) -> String {
        let admin = self.started.admin.map(|admin| format!("admin on {admin}\n")).unwrap_or_default();
        format!("{admin}listening on {}\nCtrl-C ends it; nothing is kept.", self.started.data)
    }

    fn pay(&self, key: &str, amount: u64) -> String {
        let address = &self.started.data;
        format!("curl -i http://{address}/payments -H 'Idempotency-Key: {key}' -d '{{\"amount\": {amount}}}'")
    }

    fn look(&self) -> String {
        format!("curl http://{}/payments", self.started.data)
    }

    /// A `records` command that needs nothing but to be copied.
    fn records(&self, command: &str) -> String {
        let admin = self.started.admin.map(|admin| format!("--admin {admin} ")).unwrap_or_default();
        format!("{}={} {} records {admin}{command}", token::VARIABLE, self.token, program())
    }

    /// The record of a key that curl sends: its Host, and no credentials.
    fn record_of(&self, key: &str) -> String {
        let (mut parts, ()) = Request::new(()).into_parts();
        if let Ok(host) = HeaderValue::try_from(self.started.data.to_string()) {
            parts.headers.insert(HOST, host);
        }
        let key = Key::parse(key).ok();
        let id = self.policy.as_ref().zip(key).and_then(|(policy, key)| record_id(policy, &parts, &key).ok());
        id.map_or_else(|| "ID".to_owned(), |id| id.prefix().to_string())
    }
}

/// How this program can be called again: by its name where the shell finds it, else by its path.
fn program() -> String {
    const NAME: &str = "onceproxy";
    let Ok(path) = std::env::current_exe() else { return NAME.to_owned() };
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&search).map(|folder| folder.join(NAME)).find(|candidate| candidate.is_file());
    let is_same = |found: PathBuf| found.canonicalize().is_ok_and(|found| Some(found) == path.canonicalize().ok());
    if found.is_some_and(is_same) {
        return NAME.to_owned();
    }
    let folder = std::env::current_dir().unwrap_or_default();
    match path.strip_prefix(&folder) {
        Ok(inside) => quoted(&Path::new(".").join(inside)),
        Err(_) => quoted(&path),
    }
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+".contains(letter);
    match path.chars().all(is_plain) {
        true => path,
        false => format!("'{}'", path.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        assert_eq!(quoted(Path::new("/usr/bin/onceproxy")), "/usr/bin/onceproxy");
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
