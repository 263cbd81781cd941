//! The suite itself: a store with one thing wrong is found out, by name.

use std::sync::Arc;
use std::time::Duration;

use onceproxy::RecordId;
use onceproxy::ledger::store::{
    Created, Draft, Entry, Filter, Finding, Notice, Notices, Page, Replaced, Store, StoreFuture,
};
use onceproxy::record::Version;
use onceproxy::stores::conformance;
use onceproxy::stores::memory::MemoryStore;

/// One thing that a store can get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// A repeated create is taken for a duplicate.
    ForgetsCreates,
    /// A repeated replace is stale.
    ForgetsReplaces,
    /// Replaces whatever is there.
    ReplacesBlindly,
    /// Removes whatever is there.
    RemovesBlindly,
    /// A replace of nothing is a create.
    Upserts,
    /// No time passes.
    KnowsNoAge,
    /// A record is there for a while longer than it may be.
    KeepsTooLong,
    /// Removes all that is past its keep at once.
    PurgesWithoutBound,
    /// The first page is all.
    ListsOnePage,
    /// Nobody hears of anything.
    TellsNobody,
    /// The outcome ends at the first zero.
    CutsOutcomes,
    /// Looks, and then writes: two commands.
    ComparesAndThenSets,
    /// No call ends well.
    Panics,
}

struct Broken {
    inner: MemoryStore,
    wrong: Wrong,
}

impl Broken {
    fn seen(&self, mut entry: Entry) -> Entry {
        if self.wrong == Wrong::KnowsNoAge {
            entry.age = Duration::ZERO;
        }
        if self.wrong == Wrong::CutsOutcomes {
            let outcome = entry.record.outcome;
            let end = outcome.iter().position(|byte| *byte == 0).unwrap_or(outcome.len());
            entry.record.outcome = outcome.slice(..end);
        }
        entry
    }

    fn written(&self, draft: &Draft) -> Draft {
        let mut draft = draft.clone();
        if self.wrong == Wrong::KeepsTooLong {
            draft.record.keep += Duration::from_secs(1);
        }
        draft
    }

    fn read(&self, mut entry: Entry) -> Entry {
        if self.wrong == Wrong::KeepsTooLong {
            entry.record.keep -= Duration::from_secs(1);
        }
        self.seen(entry)
    }

    async fn version(&self, id: &RecordId, expected: &Version) -> Version {
        self.inner.load(id).await.ok().flatten().map_or(*expected, |entry| entry.version)
    }
}

impl Store for Broken {
    fn create<'a>(&'a self, id: &'a RecordId, draft: &'a Draft) -> StoreFuture<'a, Created> {
        Box::pin(async move {
            if self.wrong == Wrong::ForgetsCreates
                && let Some(entry) = self.inner.load(id).await?
            {
                return Ok(Created::Existing(entry));
            }
            assert!(self.wrong != Wrong::Panics, "it panics");
            match self.inner.create(id, &self.written(draft)).await? {
                Created::New => Ok(Created::New),
                Created::Existing(entry) => Ok(Created::Existing(self.read(entry))),
            }
        })
    }

    fn replace<'a>(
        &'a self,
        id: &'a RecordId,
        expected: &'a Version,
        draft: &'a Draft,
        notice: Notice,
    ) -> StoreFuture<'a, Replaced> {
        Box::pin(async move {
            let notice = if self.wrong == Wrong::TellsNobody { Notice::Skip } else { notice };
            let present = self.inner.load(id).await?;
            let expected = match self.wrong {
                Wrong::ReplacesBlindly => self.version(id, expected).await,
                Wrong::ComparesAndThenSets if present.as_ref().is_some_and(|entry| entry.version == *expected) => {
                    tokio::task::yield_now().await;
                    self.version(id, expected).await
                }
                Wrong::ForgetsReplaces if present.as_ref().is_some_and(|entry| entry.version == draft.version) => {
                    return Ok(Replaced::Stale(present));
                }
                Wrong::Upserts if present.is_none() => {
                    self.inner.create(id, draft).await?;
                    return Ok(Replaced::Done);
                }
                _ => *expected,
            };
            match self.inner.replace(id, &expected, &self.written(draft), notice).await? {
                Replaced::Stale(Some(entry)) => Ok(Replaced::Stale(Some(self.read(entry)))),
                other => Ok(other),
            }
        })
    }

    fn remove<'a>(&'a self, id: &'a RecordId, expected: &'a Version, notice: Notice) -> StoreFuture<'a, Replaced> {
        Box::pin(async move {
            let expected = match self.wrong {
                Wrong::RemovesBlindly => self.version(id, expected).await,
                _ => *expected,
            };
            match self.inner.remove(id, &expected, notice).await? {
                Replaced::Stale(Some(entry)) => Ok(Replaced::Stale(Some(self.read(entry)))),
                other => Ok(other),
            }
        })
    }

    fn load<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Entry>> {
        Box::pin(async move { Ok(self.inner.load(id).await?.map(|entry| self.read(entry))) })
    }

    fn notices(&self) -> StoreFuture<'_, Notices> {
        self.inner.notices()
    }

    fn list<'a>(&'a self, filter: Filter, cursor: Option<&'a str>) -> StoreFuture<'a, Page> {
        Box::pin(async move {
            let mut page = self.inner.list(filter, cursor).await?;
            page.entries = page.entries.into_iter().map(|(id, entry)| (id, self.read(entry))).collect();
            if self.wrong == Wrong::ListsOnePage {
                page.next = None;
            }
            Ok(page)
        })
    }

    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        self.inner.purge(if self.wrong == Wrong::PurgesWithoutBound { usize::MAX } else { limit })
    }

    fn preflight(&self) -> StoreFuture<'_, Vec<Finding>> {
        self.inner.preflight()
    }
}

#[tokio::test]
async fn a_store_with_one_thing_wrong_is_found_out() {
    let found_by = [
        (Wrong::ForgetsCreates, "a repeat of a create is new"),
        (Wrong::ForgetsReplaces, "a repeat of a replace is done"),
        (Wrong::ReplacesBlindly, "a replace of a wrong version is stale and shows the entry"),
        (Wrong::ReplacesBlindly, "an old owner's version changes nothing in a new record"),
        (Wrong::RemovesBlindly, "a remove takes the right version only, and may be repeated"),
        (Wrong::Upserts, "a replace of a vanished record creates nothing"),
        (Wrong::KnowsNoAge, "a duplicate sees the entry and its age"),
        (Wrong::KeepsTooLong, "a record lives through its keep and not after it"),
        (Wrong::KeepsTooLong, "a shorter keep counts from its write"),
        (Wrong::PurgesWithoutBound, "purge is bounded and spares the living"),
        (Wrong::ListsOnePage, "a list shows everything"),
        (Wrong::TellsNobody, "a notice comes for a changed record"),
        (Wrong::CutsOutcomes, "a record comes back byte by byte"),
        (Wrong::ComparesAndThenSets, "of a hundred take-overs one wins"),
        (Wrong::ComparesAndThenSets, "of a take-over and a renewal one loses"),
        (Wrong::Panics, "a fresh create is new"),
    ];
    let mut runs = Vec::new();
    for (wrong, check) in found_by {
        runs.push(async move {
            let open = async || Arc::new(Broken { inner: MemoryStore::new(), wrong }) as Arc<dyn Store>;
            let failures = conformance::run(open).await.expect_err("it is broken");
            assert!(failures.0.iter().any(|failure| failure.check == check), "{wrong:?} gave {failures}");
        });
    }
    futures_util::future::join_all(runs).await;
}
