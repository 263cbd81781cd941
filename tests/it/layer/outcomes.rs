//! What a handler's answer says of the execution, and what the next request under the key gets.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use onceproxy::http::policy::StatusSet;
use onceproxy::http::refusal::{Refusal, Refused};
use onceproxy::http::report::Report;
use onceproxy::{Attempt, Disposition, Policy, State};
use tower::ServiceExt;

use crate::layer::stand::{Answer, Effect, Failed, Stand, always, charge, counting, created, frames, full};

fn with_status(status: u16) -> Stand {
    Stand::new(Policy::required(), always(move || Response::builder().status(status)))
}

#[tokio::test]
async fn complete_answers_are_recorded_errors_too() {
    for status in [200, 201, 204, 302, 400, 404, 409, 422, 500, 501] {
        let stand = with_status(status);
        stand.send(charge("k", "100")).await.is_executed();
        let again = stand.send(charge("k", "100")).await;
        again.is_replayed();
        assert_eq!(again.status.as_u16(), status);
        assert_eq!(stand.executions(), 1);
        let record = stand.record().await;
        assert_eq!((record.state, record.status), (State::Completed, status));
    }
}

#[tokio::test]
async fn a_release_status_gives_the_key_back() {
    for status in [401, 403, 425, 429] {
        let stand = with_status(status);
        for executions in [1, 2] {
            let answer = stand.send(charge("k", "100")).await;
            assert_eq!((answer.status.as_u16(), &*answer.body), (status, &b"answer"[..]));
            assert_eq!(answer.status_field(), "released");
            assert_eq!(stand.executions(), executions);
            assert!(stand.records().await.is_empty());
        }
        // Free for any other request too.
        assert_eq!(stand.send(charge("k", "900")).await.status_field(), "released");
    }
}

#[tokio::test]
async fn an_unknown_status_holds_the_key() {
    for status in [408, 502, 503, 504] {
        let stand = with_status(status);
        let answer = stand.send(charge("k", "100")).await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (status, &b"answer"[..]));
        assert_eq!(answer.status_field(), "unknown");
        let again = stand.send(charge("k", "100")).await;
        again.is_refusal(409, "outcome-unknown", Effect::Perhaps);
        assert_eq!(again.field("retry-after"), "");
        stand.send(charge("k", "900")).await.is_refusal(422, "key-reused", Effect::Perhaps);
        assert_eq!(stand.executions(), 1);
        let record = stand.record().await;
        assert_eq!((record.state, &*record.reason), (State::Unknown, &*format!("status {status}")));
    }
}

#[tokio::test]
async fn the_sets_of_statuses_are_the_policys() {
    let policy = || Policy {
        release_status: StatusSet::new([503]),
        unknown_status: StatusSet::new([500]),
        ..Policy::required()
    };
    for (status, field) in [(503, "released"), (500, "unknown"), (429, "executed"), (504, "executed")] {
        let stand = Stand::new(policy(), always(move || Response::builder().status(status)));
        assert_eq!(stand.send(charge("k", "100")).await.status_field(), field, "{status}");
    }
}

#[tokio::test]
async fn the_outcome_header_releases_and_goes_no_further() {
    for value in ["not-executed", "Not-Executed"] {
        let stand =
            Stand::new(Policy::required(), always(move || Response::builder().header("idempotency-outcome", value)));
        let answer = stand.send(charge("k", "100")).await;
        assert_eq!(answer.status_field(), "released");
        assert_eq!(answer.field("idempotency-outcome"), "");
        assert!(stand.records().await.is_empty());
    }
    let stand =
        Stand::new(Policy::required(), always(|| Response::builder().header("idempotency-outcome", "something")));
    let answer = stand.send(charge("k", "100")).await;
    answer.is_executed();
    assert_eq!(answer.field("idempotency-outcome"), "");
}

#[tokio::test]
async fn a_disposition_beats_status_and_header() {
    let released =
        Stand::new(Policy::required(), always(|| Response::builder().status(500).extension(Disposition::NotExecuted)));
    assert_eq!(released.send(charge("k", "100")).await.status_field(), "released");
    assert!(released.records().await.is_empty());

    let unknown = Stand::new(
        Policy::required(),
        always(|| {
            let response = Response::builder().status(200).header("idempotency-outcome", "not-executed");
            response.extension(Disposition::Unknown("card network silent"))
        }),
    );
    let answer = unknown.send(charge("k", "100")).await;
    assert_eq!(answer.status_field(), "unknown");
    assert_eq!(answer.field("idempotency-outcome"), "");
    let record = unknown.record().await;
    assert_eq!((record.state, &*record.reason), (State::Unknown, "card network silent"));
    unknown.send(charge("k", "100")).await.is_refusal(409, "outcome-unknown", Effect::Perhaps);
}

#[tokio::test]
async fn a_handlers_error_stays_its_own_and_leaves_the_key_unknown() {
    let stand = Stand::new(Policy::required(), |_| async { Err(Failed) });
    assert_eq!(stand.try_send(charge("k", "100")).await.expect_err("the handler failed"), Failed);
    let record = stand.record().await;
    assert_eq!((record.state, &*record.reason), (State::Unknown, "failed"));
    stand.send(charge("k", "100")).await.is_refusal(409, "outcome-unknown", Effect::Perhaps);
    assert_eq!(stand.executions(), 1);
}

#[tokio::test]
async fn a_handlers_panic_goes_on_and_leaves_the_key_unknown() {
    let stand = Stand::new(Policy::required(), |_| async { panic!("the handler broke") });
    let service = stand.service.clone();
    let panic = tokio::spawn(service.oneshot(charge("k", "100"))).await.expect_err("a panic").into_panic();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"the handler broke"));
    let record = stand.record().await;
    assert_eq!((record.state, &*record.reason), (State::Unknown, "failed"));
    stand.send(charge("k", "100")).await.is_refusal(409, "outcome-unknown", Effect::Perhaps);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_never_passed_on_as_whole_h19() {
    let stand = Stand::new(Policy::required(), |_| async {
        Ok(Response::new(frames(vec![Ok(Frame::data(Bytes::from_static(b"half"))), Err("cut".into())])))
    });
    let answer = stand.send(charge("k", "100")).await;
    assert_eq!((answer.status.as_u16(), answer.status_field()), (502, "unknown"));
    assert_eq!(answer.problem()["code"], "upstream-lost");
    assert_eq!(answer.field("idempotency-outcome"), "");
    assert_eq!(&*stand.record().await.reason, "upstream-lost");
    stand.send(charge("k", "100")).await.is_refusal(409, "outcome-unknown", Effect::Perhaps);
}

#[tokio::test]
async fn a_body_that_times_out_is_told_apart() {
    let stand = Stand::new(Policy::required(), |_| async {
        let silence = std::io::Error::from(std::io::ErrorKind::TimedOut);
        Ok(Response::builder().status(429).body(frames(vec![Err(silence.into())])).expect("a response"))
    });
    // Not even a release status is proof when the answer is not complete.
    let answer = stand.send(charge("k", "100")).await;
    assert_eq!((answer.status.as_u16(), answer.status_field()), (504, "unknown"));
    assert_eq!(answer.problem()["code"], "upstream-timeout");
    stand.send(charge("k", "100")).await.is_refusal(409, "outcome-unknown", Effect::Perhaps);
}

#[tokio::test]
async fn under_retry_an_unknown_is_executed_again_by_the_same_request_only() {
    let policy = Policy::required().retry_unknown(Duration::ZERO);
    let stand = Stand::new(policy, |request| async move {
        let attempt = request.extensions().get::<Attempt>().expect("an attempt").number();
        assert_eq!(request.headers()["idempotency-attempt"], attempt.to_string());
        Ok(match attempt {
            1 => Response::builder().status(504).body(full("")).expect("a response"),
            _ => created(format!("attempt {attempt}")),
        })
    });
    assert_eq!(stand.send(charge("k", "100")).await.status_field(), "unknown");
    stand.send(charge("k", "900")).await.is_refusal(422, "key-reused", Effect::Perhaps);
    let second = stand.send(charge("k", "100")).await;
    second.is_executed();
    assert_eq!(second.body, "attempt 2");
    stand.send(charge("k", "100")).await.is_replayed();
    assert_eq!(stand.executions(), 2);
}

#[tokio::test]
async fn proof_of_a_later_attempt_frees_no_key_that_an_earlier_one_may_have_used() {
    let policy = Policy::required().retry_unknown(Duration::ZERO);
    let stand = Stand::new(policy, |request| async move {
        let attempt = request.extensions().get::<Attempt>().expect("an attempt").number();
        let response = Response::builder().header("idempotency-outcome", "not-executed");
        Ok(match attempt {
            1 => Response::builder().status(504).body(full("")).expect("a response"),
            2 => response.status(429).body(full("slow down")).expect("a response"),
            3 => {
                let mut refusal = Refusal::UpstreamNotReached.into_response(None);
                refusal.extensions_mut().insert(Disposition::NotExecuted);
                refusal.map(full)
            }
            // A layer within says it by the header alone.
            4 => Refusal::ClaimLost.into_response(None).map(full),
            _ => created(format!("attempt {attempt}")),
        })
    });
    assert_eq!(stand.send(charge("k", "100")).await.status_field(), "unknown");
    // The upstream's own refusal goes on as it is, the proxy's says what is so of the key.
    let second = stand.send(charge("k", "100")).await;
    assert_eq!((second.status.as_u16(), &*second.body), (429, &b"slow down"[..]));
    let third = stand.send(charge("k", "100")).await;
    let fourth = stand.send(charge("k", "100")).await;
    for refusal in [&third, &fourth] {
        assert_eq!((refusal.status.as_u16(), refusal.problem()["code"].as_str()), (409, Some("outcome-unknown")));
    }
    for (attempt, answer) in [second, third, fourth].iter().enumerate() {
        assert_eq!(answer.status_field(), "unknown", "after attempt {}", attempt + 2);
        assert_eq!(answer.field("idempotency-outcome"), "");
    }
    stand.send(charge("k", "900")).await.is_refusal(422, "key-reused", Effect::Perhaps);
    let record = stand.record().await;
    assert_eq!((record.state, record.attempt, &*record.reason), (State::Unknown, 4, "not-executed"));
    let fifth = stand.send(charge("k", "100")).await;
    fifth.is_executed();
    assert_eq!(fifth.body, "attempt 5");
}

#[tokio::test]
async fn under_retry_a_grace_comes_first() {
    let policy = Policy::required().retry_unknown(Duration::from_secs(90));
    let stand = Stand::new(policy, always(|| Response::builder().status(504)));
    stand.send(charge("k", "100")).await;
    let answer = stand.send(charge("k", "100")).await;
    answer.is_refusal(409, "in-flight", Effect::Perhaps);
    assert_eq!(answer.field("retry-after"), "90");
    assert_eq!(stand.executions(), 1);
}

#[tokio::test]
async fn the_handler_sees_its_attempt() {
    let stand = Stand::new(Policy::required(), |request| async move {
        let attempt = request.extensions().get::<Attempt>().expect("an attempt");
        assert_eq!((attempt.key().as_str(), attempt.number()), ("k 1", 1));
        assert!(attempt.may_start());
        assert_eq!(request.headers()["idempotency-attempt"], "1");
        // The key goes on as it came.
        assert_eq!(request.headers()["idempotency-key"], "\"k 1\"");
        Ok(created(attempt.record_id().to_string()))
    });
    let first = stand.send(charge("\"k 1\"", "100")).await;
    first.is_executed();
    let id = first.body.clone();
    let page = onceproxy::Store::list(&stand.store, onceproxy::ledger::store::Filter { state: None, limit: 9 }, None);
    assert_eq!(id, page.await.expect("a page").entries[0].0.to_string());
}

#[tokio::test]
async fn the_route_is_in_the_record_and_the_report_in_the_answer() {
    let stand = Stand::new(Policy::required().route("pay"), counting());
    let report = async |request: Request<_>| {
        let response = stand.begin(request).await.expect("an answer");
        let refused = response.extensions().get::<Refused>().map(|refused| refused.code);
        (response.extensions().get::<Report>().copied(), refused)
    };
    let (first, _) = report(charge("k", "100")).await;
    assert_eq!(first.map(|report| report.outcome), Some("executed"));
    assert_eq!(&*stand.record().await.route, "pay");
    let (again, _) = report(charge("k", "100")).await;
    assert_eq!(again.map(|report| report.outcome), Some("replayed"));
    assert_eq!(again.and_then(|report| report.record), first.and_then(|report| report.record));
    let (reused, refused) = report(charge("k", "900")).await;
    assert_eq!((reused.map(|report| report.outcome), refused), (Some("key-reused"), Some("key-reused")));
    let (passed, _) = report(Request::get("/").body(full("")).expect("a request")).await;
    assert!(passed.is_none());
}

#[tokio::test]
async fn documentation_is_linked_where_there_is_some() {
    let policy = Policy { docs_url: Some("https://docs.example/".into()), ..Policy::required() };
    let stand = Stand::new(policy, counting());
    let response = stand.begin(Request::post("/").body(full("")).expect("a request")).await;
    let answer = Answer::read(response.expect("an answer")).await.expect("a body");
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).expect("a problem");
    assert_eq!(problem["type"], "https://docs.example/key-missing");
    assert_eq!(answer.field("link"), "<https://docs.example/key-missing>; rel=\"describedby\"");
}
