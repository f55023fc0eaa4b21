//! The bulk API's bodies, read and changed: which items a request holds, a request without some of them, and an answer with them put back.

use serde_json::{Value, json};

/// One item of a bulk request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Item {
    /// `index`, `create`, `update` or `delete`.
    pub(crate) action: String,
    pub(crate) index: String,
    pub(crate) id: String,
    /// The external version, where there is one.
    pub(crate) version: Option<u64>,
    /// Its lines as they were sent, each with its end.
    pub(crate) lines: Vec<u8>,
}

impl Item {
    /// The document that it is about.
    pub(crate) fn document(&self) -> (String, String) {
        (self.index.clone(), self.id.clone())
    }

    /// What Elasticsearch would answer for it.
    fn refusal(&self, status: u16) -> Value {
        let error = match status {
            429 => "es_rejected_execution_exception",
            503 => "unavailable_shards_exception",
            _ => "made_up_by_the_proxy",
        };
        let answer = json!({"_index": self.index, "_id": self.id, "status": status,
            "error": {"type": error, "reason": "the proxy says so"}});
        json!({self.action.as_str(): answer})
    }
}

/// The items of a body. `in_path` is the index that the path names, if any.
pub(crate) fn parse(body: &[u8], in_path: Option<&str>) -> Vec<Item> {
    let mut lines = body.split_inclusive(|byte| *byte == b'\n');
    let mut items = Vec::new();
    while let Some(line) = lines.next() {
        if line == b"\n" {
            continue;
        }
        let head: Value = serde_json::from_slice(line)
            .unwrap_or_else(|error| panic!("not an action of a bulk: {error}: {}", line.escape_ascii()));
        let (action, about) = head.as_object().and_then(|head| head.iter().next()).unwrap();
        let text = |name: &str| about[name].as_str().map(str::to_owned);
        let mut all = line.to_vec();
        if action != "delete" {
            all.extend(lines.next().unwrap_or_else(|| panic!("{action} has no body")));
        }
        items.push(Item {
            action: action.clone(),
            index: text("_index").or(in_path.map(str::to_owned)).unwrap_or_default(),
            id: text("_id").unwrap_or_default(),
            version: about["version"].as_u64(),
            lines: all,
        });
    }
    items
}

/// The body without the items at these places.
pub(crate) fn without(items: &[Item], refused: &[usize]) -> Vec<u8> {
    let kept = items.iter().enumerate().filter(|(place, _)| !refused.contains(place));
    kept.flat_map(|(_, item)| item.lines.clone()).collect()
}

/// The answer to the rest, with a refusal for each item that was left out. `rest` is none where nothing was left.
pub(crate) fn woven(items: &[Item], refused: &[usize], status: u16, rest: Option<&[u8]>) -> Vec<u8> {
    let mut answered = rest
        .map(|rest| serde_json::from_slice::<Value>(rest).unwrap())
        .map(|mut rest| rest["items"].take().as_array().cloned().unwrap())
        .unwrap_or_default()
        .into_iter();
    let items: Vec<Value> = items
        .iter()
        .enumerate()
        .map(|(place, item)| match refused.contains(&place) {
            true => item.refusal(status),
            false => answered.next().expect("an answer for each item"),
        })
        .collect();
    json!({"took": 1, "errors": true, "items": items})
        .to_string()
        .into_bytes()
}

/// The status of each item of an answer; empty where it is none to a bulk.
pub(crate) fn statuses(answer: &[u8]) -> Vec<u16> {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let status = |item: &Value| {
        let (_, about) = item.as_object()?.iter().next()?;
        Some(about["status"].as_u64()? as u16)
    };
    let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(status).collect()
}

#[cfg(test)]
mod tests {
    use super::{parse, statuses, without, woven};

    const BODY: &[u8] = b"{\"index\":{\"_index\":\"a\",\"_id\":\"1\",\"version\":7}}\n{\"x\":1}\n\
        {\"delete\":{\"_index\":\"a\",\"_id\":\"2\"}}\n{\"update\":{\"_id\":\"3\"}}\n{\"doc\":{}}\n";

    #[test]
    fn items_are_told_apart_and_taken_out() {
        let items = parse(BODY, Some("path"));
        let told: Vec<_> = items
            .iter()
            .map(|item| {
                (
                    item.action.as_str(),
                    item.index.as_str(),
                    item.id.as_str(),
                    item.version,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("index", "a", "1", Some(7)),
                ("delete", "a", "2", None),
                ("update", "path", "3", None)
            ]
        );
        assert_eq!(without(&items, &[]), BODY);
        assert_eq!(
            without(&items, &[0, 2]),
            b"{\"delete\":{\"_index\":\"a\",\"_id\":\"2\"}}\n"
        );
    }

    #[test]
    fn what_was_taken_out_is_answered_in_its_place() {
        let items = parse(BODY, None);
        let rest = br#"{"took":3,"errors":false,"items":[{"delete":{"status":404}}]}"#;
        assert_eq!(statuses(&woven(&items, &[0, 2], 429, Some(rest))), [429, 404, 429]);
        assert_eq!(statuses(&woven(&items, &[0, 1, 2], 429, None)), [429, 429, 429]);
        assert!(statuses(b"<html>").is_empty());
    }
}
