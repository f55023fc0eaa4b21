//! What each answer means.

use super::*;
use crate::external::{Claim, Failing, Ticket};

fn item(action: DocumentAction, version: Option<i64>, tries: u32) -> Item<Document> {
    Item {
        content: Document {
            index: "x".into(),
            id: "1".to_owned(),
            routing: None,
            pipeline: None,
            action,
            version,
            body: Vec::new(),
        },
        order: 0,
        bytes: 1,
        ticket: Ticket { slot: 0, record: 0 },
        claim: Claim::default(),
        tries,
        failing: None,
        is_repeated: false,
    }
}

/// In one word: what becomes of an item with this answer.
fn word(action: DocumentAction, version: Option<i64>, tries: u32, status: u16, kind: &str) -> String {
    let error = (!kind.is_empty()).then(|| {
        let (kind, reason) = kind.split_once('/').unwrap_or((kind, "because"));
        Cause {
            kind: kind.to_owned(),
            reason: Some(reason.to_owned()),
            caused_by: None,
        }
    });
    let status = Status {
        status,
        error,
        failure_store: None,
    };
    match of_item(&item(action, version, tries), &status, Instant::now()) {
        Answer::Done(outcome) => outcome.to_owned(),
        Answer::Refused(text) => {
            assert!(text.contains("index x, id 1"), "{text}");
            "refused".to_owned()
        }
        Answer::Again(trouble) => format!("again {}", trouble.kind),
    }
}

/// Action, version, tries before, status, error (`TYPE` or `TYPE/REASON`), and what becomes of the item.
type Row = (DocumentAction, Option<i64>, u32, u16, &'static str, &'static str);

#[test]
fn every_status_has_its_meaning() {
    use DocumentAction::{Create, Delete, Index, Update, Upsert};
    let table: [Row; 52] = [
        (Index, None, 0, 200, "", "done"),
        (Index, Some(1), 0, 201, "", "done"),
        (Update, None, 0, 200, "", "done"),
        (Delete, None, 0, 200, "", "done"),
        (Delete, None, 0, 404, "", "missing"),
        (Delete, Some(1), 0, 404, "", "missing"),
        (Delete, None, 0, 404, "index_not_found_exception", "missing"),
        (Index, None, 0, 404, "index_not_found_exception", "again index-missing"),
        (Update, None, 0, 404, "index_not_found_exception", "again index-missing"),
        (Update, None, 0, 404, "document_missing_exception", "refused"),
        (Index, Some(1), 0, 409, "version_conflict_engine_exception", "conflict"),
        (Index, Some(1), 1, 409, "version_conflict_engine_exception", "repeated"),
        (Delete, Some(1), 0, 409, "version_conflict_engine_exception", "conflict"),
        (Create, None, 0, 409, "version_conflict_engine_exception", "conflict"),
        (Create, None, 3, 409, "version_conflict_engine_exception", "repeated"),
        (Update, None, 0, 409, "version_conflict_engine_exception", "again 409"),
        (Upsert, None, 0, 409, "version_conflict_engine_exception", "again 409"),
        (Index, None, 0, 409, "version_conflict_engine_exception", "again 409"),
        (Index, None, 0, 400, "document_parsing_exception", "refused"),
        (Index, None, 0, 400, "strict_dynamic_mapping_exception", "refused"),
        (
            Index,
            None,
            0,
            400,
            "illegal_argument_exception/Limit of total fields [1000] has been exceeded",
            "refused",
        ),
        (
            Index,
            None,
            0,
            400,
            "illegal_argument_exception/pipeline with id [p] does not exist",
            "again 400",
        ),
        (
            Index,
            None,
            0,
            400,
            "validation_exception/this action would add [2] shards, but this cluster currently has [1000]/[1000] maximum normal shards open;",
            "again 400",
        ),
        (Index, None, 0, 401, "security_exception", "again 401"),
        (Index, None, 0, 403, "security_exception", "again 403"),
        (Index, None, 0, 403, "cluster_block_exception", "again blocked"),
        (Index, None, 0, 429, "cluster_block_exception", "again blocked"),
        (Index, None, 0, 429, "es_rejected_execution_exception", "again 429"),
        (Index, None, 999, 429, "es_rejected_execution_exception", "again 429"),
        (Index, None, 0, 408, "", "again 408"),
        (Index, None, 0, 502, "", "again 502"),
        (Index, None, 0, 503, "unavailable_shards_exception", "again 503"),
        (Index, None, 999, 503, "unavailable_shards_exception", "again 503"),
        (Index, None, 0, 504, "", "again 504"),
        (Index, None, 0, 413, "", "refused"),
        (Index, None, 0, 500, "null_pointer_exception", "again 500"),
        (Index, None, 999, 500, "null_pointer_exception", "again 500"),
        (Index, None, 0, 400, "index_closed_exception", "again 400"),
        (
            Index,
            None,
            0,
            400,
            "illegal_argument_exception/no write index is defined for alias [x]",
            "again 400",
        ),
        (
            Index,
            None,
            0,
            400,
            "illegal_argument_exception/number of documents in the index cannot exceed 2147483519",
            "again 400",
        ),
        (
            Index,
            None,
            0,
            400,
            "illegal_argument_exception/Number of documents in shard [x][0] exceeds the limit of [2147483519] documents per shard",
            "again 400",
        ),
        (
            Index,
            None,
            0,
            400,
            "illegal_argument_exception/bad value [no write index is defined]",
            "refused",
        ),
        (Index, None, 0, 404, "", "again 404"),
        (Index, None, 0, 404, "shard_not_found_exception", "again 404"),
        (Delete, None, 0, 404, "shard_not_found_exception", "again 404"),
        (Index, Some(1), 0, 409, "", "again 409"),
        (Create, None, 0, 409, "resource_already_exists_exception", "again 409"),
        (Index, Some(1), 1, 409, "resource_already_exists_exception", "again 409"),
        (
            Delete,
            Some(1),
            0,
            409,
            "resource_already_exists_exception",
            "again 409",
        ),
        (Update, None, 0, 404, "resource_not_found_exception", "again 404"),
        (Index, None, 0, 422, "", "refused"),
        (Index, None, 0, 302, "", "refused"),
    ];
    for (action, version, tries, status, kind, expected) in table {
        let found = word(action, version, tries, status, kind);
        assert_eq!(found, expected, "{action:?} {version:?} try {tries}: {status} {kind}");
    }
}

#[test]
fn a_record_that_came_again_conflicts_with_nobody() {
    let repeated = Item {
        is_repeated: true,
        ..item(DocumentAction::Index, Some(1), 0)
    };
    let status: Status =
        serde_json::from_str(r#"{"status":409,"error":{"type":"version_conflict_engine_exception"}}"#).unwrap();
    assert_eq!(of_item(&repeated, &status, Instant::now()), Answer::Done("repeated"));
}

#[test]
fn a_document_is_to_blame_when_the_server_fails_on_it_often_and_long() {
    let since = Instant::now();
    let status: Status = serde_json::from_str(r#"{"status":500}"#).unwrap();
    let is_refused = |times, seconds| {
        let item = Item {
            failing: Some(Failing { times, since }),
            ..item(DocumentAction::Index, None, 99)
        };
        let answer = of_item(&item, &status, since + Duration::from_secs(seconds));
        matches!(answer, Answer::Refused(_))
    };
    assert!(is_refused(FAILURES_MAX, 60));
    assert!(!is_refused(FAILURES_MAX, 59));
    assert!(!is_refused(FAILURES_MAX - 1, 600));
}

#[test]
fn what_went_to_a_failure_store_is_refused() {
    let answer = |store: &str| {
        let body = format!(r#"{{"items":[{{"create":{{"status":201,"failure_store":"{store}"}}}}]}}"#);
        let Whole::Items(statuses) = whole(200, body.as_bytes(), 1) else {
            panic!("{body}")
        };
        of_item(&item(DocumentAction::Create, None, 0), &statuses[0], Instant::now())
    };
    assert_eq!(answer("not_enabled"), Answer::Done("done"));
    assert!(matches!(answer("used"), Answer::Refused(text) if text.contains("failure store")));
}

#[test]
fn a_refusal_tells_the_error_with_its_causes() {
    let status: Status = serde_json::from_str(
        r#"{"status":400,"error":{"type":"document_parsing_exception","reason":"[1:6] failed to parse field [price] of type [long]",
        "caused_by":{"type":"illegal_argument_exception","reason":"For input string: \"dear\""}}}"#,
    )
    .unwrap();
    let Answer::Refused(text) = of_item(&item(DocumentAction::Index, None, 0), &status, Instant::now()) else {
        panic!("{status:?}")
    };
    insta::assert_snapshot!(text, @r#"document_parsing_exception: [1:6] failed to parse field [price] of type [long]; caused by illegal_argument_exception: For input string: "dear" (400, index x, id 1)"#);
}

#[test]
fn a_whole_answer_is_read_or_tried_again() {
    let kind = |status: u16, body: &str, expected: usize| match whole(status, body.as_bytes(), expected) {
        Whole::Items(items) => format!("{} items", items.len()),
        Whole::Trouble(trouble) => trouble.kind.to_owned(),
        Whole::TooLarge(_) => "too large".to_owned(),
        Whole::Refused(text) => text,
    };
    let two = r#"{"took":3,"errors":true,"items":[{"index":{"_id":"1","status":201}},{"delete":{"status":404}}]}"#;
    assert_eq!(kind(200, two, 2), "2 items");
    assert_eq!(kind(200, two, 3), "no-bulk-answer");
    assert_eq!(kind(200, &two[..two.len() - 9], 2), "no-bulk-answer");
    assert_eq!(kind(200, "<html>welcome</html>", 2), "no-bulk-answer");
    assert_eq!(kind(200, "", 1), "no-bulk-answer");
    assert_eq!(
        kind(200, r#"{"items":[{"other":{"status":200}}]}"#, 1),
        "no-bulk-answer"
    );
    let error =
        r#"{"error":{"root_cause":[],"type":"illegal_argument_exception","reason":"Malformed action"},"status":400}"#;
    assert_eq!(
        kind(400, error, 1),
        "the request is refused (400): illegal_argument_exception: Malformed action"
    );
    assert_eq!(
        kind(400, "<html>400 The plain HTTP request was sent to HTTPS port</html>", 1),
        "no-bulk-answer"
    );
    let pipeline = r#"{"error":{"type":"illegal_argument_exception","reason":"pipeline with id [p] does not exist"},"status":400}"#;
    assert_eq!(kind(400, pipeline, 1), "400");
    let closed =
        r#"{"error":{"type":"remote","caused_by":{"type":"index_closed_exception","reason":"closed"}},"status":400}"#;
    assert_eq!(kind(400, closed, 1), "400");
    for foreign in [
        r#"{"error":"bad request"}"#,
        r#"{"error":{}}"#,
        r#"{"error":{"code":7}}"#,
    ] {
        assert_eq!(kind(400, foreign, 1), "no-bulk-answer", "{foreign}");
    }
    assert_eq!(kind(413, "", 1), "too large");
    for (status, word) in [
        (401, "401"),
        (403, "403"),
        (404, "no-bulk-answer"),
        (405, "no-bulk-answer"),
        (429, "429"),
        (500, "other-status"),
        (502, "502"),
        (503, "503"),
        (504, "504"),
        (302, "other-status"),
    ] {
        assert_eq!(kind(status, error, 1), word);
    }
}
