//! Checks of `replace` and `remove`: nothing changes but under the right version.

use super::bench::{Bench, completed, ensure, fresh_id, in_flight};
use crate::ledger::store::{Created, Draft, Replaced};
use crate::record::Version;

pub(super) async fn right_version(bench: Bench) -> Result<(), String> {
    let first = Draft::new(in_flight());
    let id = bench.put(&first).await?;
    let second = Draft::new(in_flight());
    bench.must_replace(&id, &first.version, &second).await?;
    bench.must_hold(&id, &second).await?;
    let third = Draft::new(completed("done"));
    bench.must_replace(&id, &second.version, &third).await?;
    bench.must_hold(&id, &third).await?;
    Ok(())
}

pub(super) async fn wrong_version(bench: Bench) -> Result<(), String> {
    let first = Draft::new(completed("first"));
    let id = bench.put(&first).await?;
    for wrong in [Version::random(), Version::from_bytes([0; 16]), Version::from_bytes([255; 16])] {
        match bench.replace(&id, &wrong, &Draft::new(completed("second"))).await? {
            Replaced::Stale(Some(entry)) => {
                let same = entry.version == first.version && entry.record == first.record;
                ensure!(same, "stale showed {entry:?}");
            }
            other => return Err(format!("{other:?}")),
        }
        bench.must_hold(&id, &first).await?;
    }
    Ok(())
}

pub(super) async fn repeated_replace(bench: Bench) -> Result<(), String> {
    let first = Draft::new(in_flight());
    let id = bench.put(&first).await?;
    let second = Draft::new(completed("done"));
    bench.must_replace(&id, &first.version, &second).await?;
    // A repeat expects what its first sending expected, which is gone.
    bench.must_replace(&id, &first.version, &second).await?;
    bench.must_hold(&id, &second).await?;
    Ok(())
}

pub(super) async fn vanished_record(bench: Bench) -> Result<(), String> {
    let id = fresh_id();
    let replaced = bench.replace(&id, &Version::random(), &Draft::new(completed("late"))).await?;
    ensure!(replaced == Replaced::Stale(None), "{replaced:?}");
    ensure!(bench.load(&id).await?.is_none(), "the replace created a record");
    let first = Draft::new(in_flight());
    let id = bench.put(&first).await?;
    bench.remove(&id, &first.version).await?;
    let replaced = bench.replace(&id, &first.version, &Draft::new(completed("late"))).await?;
    ensure!(replaced == Replaced::Stale(None), "after a remove: {replaced:?}");
    ensure!(bench.load(&id).await?.is_none(), "the replace brought the record back");
    Ok(())
}

pub(super) async fn remove(bench: Bench) -> Result<(), String> {
    let first = Draft::new(in_flight());
    let id = bench.put(&first).await?;
    match bench.remove(&id, &Version::random()).await? {
        Replaced::Stale(Some(entry)) if entry.version == first.version && entry.record == first.record => {}
        other => return Err(format!("a remove of a wrong version gave {other:?}")),
    }
    bench.must_hold(&id, &first).await?;
    for time in ["first", "second"] {
        let removed = bench.remove(&id, &first.version).await?;
        ensure!(removed == Replaced::Done, "the {time} remove gave {removed:?}");
        ensure!(bench.load(&id).await?.is_none(), "the record is there after the {time} remove");
    }
    let removed = bench.remove(&fresh_id(), &first.version).await?;
    ensure!(removed == Replaced::Done, "a remove where nothing ever was gave {removed:?}");
    Ok(())
}

pub(super) async fn old_owner(bench: Bench) -> Result<(), String> {
    let old = Draft::new(in_flight());
    let id = bench.put(&old).await?;
    bench.remove(&id, &old.version).await?;
    let new = Draft::new(in_flight());
    let created = bench.create(&id, &new).await?;
    ensure!(created == Created::New, "a create after a remove gave {created:?}");
    let replaced = bench.replace(&id, &old.version, &Draft::new(completed("old"))).await?;
    ensure!(matches!(replaced, Replaced::Stale(Some(_))), "the old owner's replace gave {replaced:?}");
    let removed = bench.remove(&id, &old.version).await?;
    ensure!(matches!(removed, Replaced::Stale(Some(_))), "the old owner's remove gave {removed:?}");
    bench.must_hold(&id, &new).await?;
    Ok(())
}
