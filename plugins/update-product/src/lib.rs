//! Turns a retail event into a partial update of the product's document: `{"product_id": 10, "price": 15, "stock": 3, ..}` becomes
//! `{"product":{"price":15,"stock":3}}` for the document with the id `10`.
//!
//! The fields that move are configured; all others of the document stay. An event has to have each of them: a document that is half
//! of one event and half of another would be wrong without a trace, so an event that lacks one is rejected. Values are written as the
//! event spells them. Where there is no such document, the update is a dead letter, or, with `upsert: true`, the document is made of
//! the fields that move and the product's id.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use wasmill_plugin::json::Pointer;
use wasmill_plugin::{Action, DocumentPort, Output, Port, Processor, Reads, Record, Rejection};

const PRODUCT: DocumentPort = DocumentPort::new(0, "product");

/// The stage's configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default = "price_and_stock")]
    fields: Vec<String>,
    #[serde(default)]
    upsert: bool,
}

fn price_and_stock() -> Vec<String> {
    ["price", "stock"].map(str::to_owned).to_vec()
}

/// The fields that move, and what is done where there is no document.
pub struct UpdateProduct {
    /// Where a field is in the event, and how its name begins a member of the document.
    fields: Vec<(Pointer, String)>,
    action: Action,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    product_id: &'a RawValue,
}

impl Processor for UpdateProduct {
    type Config = Config;
    const PORTS: &'static [Port] = &[Port::Document(PRODUCT)];
    const READS: Reads = Reads::VALUE;
    const CONFIG_SCHEMA: &'static str = r#"{
        "type": "object",
        "properties": {
            "fields": {
                "type": "array",
                "minItems": 1,
                "uniqueItems": true,
                "items": {"type": "string", "minLength": 1},
                "default": ["price", "stock"],
                "description": "the event's fields that are written into the document's `product`"
            },
            "upsert": {"type": "boolean", "default": false, "description": "make the document where there is none"}
        },
        "additionalProperties": false
    }"#;

    fn configure(config: Config) -> Result<UpdateProduct, String> {
        let field = |name: String| match serde_json::to_string(&name) {
            Ok(_) if name == "id" => Err("`fields`: `id` is the event's `product_id`, and never changes".to_owned()),
            Ok(quoted) => Ok((Pointer::member(name), format!("{quoted}:"))),
            Err(error) => Err(format!("`fields`: {error}")),
        };
        Ok(UpdateProduct {
            fields: config.fields.into_iter().map(field).collect::<Result<_, _>>()?,
            action: if config.upsert { Action::Upsert } else { Action::Update },
        })
    }

    fn process(&mut self, record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
        let Event { product_id } = record.json()?;
        let id = id_of(product_id.get())?;
        let mut body = r#"{"product":{"#.to_owned();
        if self.action == Action::Upsert {
            body.push_str(r#""id":"#);
            body.push_str(product_id.get());
            body.push(',');
        }
        for (place, name) in &self.fields {
            let value = record.at(place)?.filter(|value| *value != "null");
            let value =
                value.ok_or_else(|| Rejection::new(format!("the event has no `{}`", &place.to_string()[1..])))?;
            body.push_str(name);
            body.push_str(value);
            body.push(',');
        }
        body.pop();
        body.push_str("}}");
        out.document(PRODUCT, self.action).id(&id).body(body).send();
        Ok(())
    }
}

/// The document's id: the product's, an integer or a string.
fn id_of(product_id: &str) -> Result<Cow<'_, str>, Rejection> {
    let digits = product_id.strip_prefix('-').unwrap_or(product_id);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Cow::Borrowed(product_id));
    }
    match serde_json::from_str::<String>(product_id) {
        Ok(id) if !id.is_empty() => Ok(Cow::Owned(id)),
        _ => Err(Rejection::new(
            "`product_id` is neither an integer nor a string with characters",
        )),
    }
}

wasmill_plugin::processor!(UpdateProduct);

#[cfg(test)]
mod tests {
    use wasmill_plugin::Action;
    use wasmill_plugin::testing::{Document, Input, Plugin, Reply, Sent};

    use super::UpdateProduct;

    const EVENT: &str = r#"{"name": "Funny Farm House Ketchup", "category": "Dips and Ketchups", "price": 15.0, "stock": 3, "product_id": 10, "timestamp": ""}"#;

    fn reply(config: &str, event: &str) -> Reply {
        let record = Input::value(event).key("k");
        Plugin::<UpdateProduct>::new(config).unwrap().process(&record)
    }

    fn sent(action: Action, id: &str, body: &str) -> Reply {
        Reply::Sent(vec![Sent::Document(Document {
            port: "product".to_owned(),
            id: Some(id.to_owned()),
            routing: None,
            action,
            body: Some(body.as_bytes().to_vec()),
        })])
    }

    #[test]
    fn an_event_changes_price_and_stock_and_nothing_else() {
        let body = r#"{"product":{"price":15.0,"stock":3}}"#;
        assert_eq!(reply("{}", EVENT), sent(Action::Update, "10", body));
    }

    #[test]
    fn the_fields_that_move_are_configured() {
        let body = r#"{"product":{"stock":3,"name":"Funny Farm House Ketchup"}}"#;
        let config = r#"{"fields": ["stock", "name"]}"#;
        assert_eq!(reply(config, EVENT), sent(Action::Update, "10", body));
        let event = r#"{"product_id":1,"a\"/b":{"c":[ 1.50 ]}}"#;
        let body = r#"{"product":{"a\"/b":{"c":[ 1.50 ]}}}"#;
        assert_eq!(
            reply(r#"{"fields": ["a\"/b"]}"#, event),
            sent(Action::Update, "1", body)
        );
    }

    #[test]
    fn a_new_document_knows_its_id() {
        let body = r#"{"product":{"id":10,"price":15.0,"stock":3}}"#;
        assert_eq!(reply(r#"{"upsert": true}"#, EVENT), sent(Action::Upsert, "10", body));
    }

    #[test]
    fn an_id_is_an_integer_or_a_string() {
        let event = |id: &str| format!(r#"{{"product_id":{id},"price":1,"stock":0}}"#);
        let body = r#"{"product":{"price":1,"stock":0}}"#;
        for (id, expected) in [
            ("9007199254740993", "9007199254740993"),
            ("-1", "-1"),
            (r#""A-7\u0021""#, "A-7!"),
        ] {
            assert_eq!(reply("{}", &event(id)), sent(Action::Update, expected, body));
        }
        for id in ["1.0", "1e1", "\"\"", "null", "true", "[10]"] {
            assert_eq!(
                reply("{}", &event(id)),
                Reply::rejected("`product_id` is neither an integer nor a string with characters"),
                "{id}"
            );
        }
    }

    #[test]
    fn an_event_that_lacks_a_field_is_rejected() {
        for event in [
            r#"{"product_id":1,"price":1}"#,
            r#"{"product_id":1,"price":1,"stock":null}"#,
        ] {
            assert_eq!(reply("{}", event), Reply::rejected("the event has no `stock`"));
        }
    }

    #[test]
    fn what_is_no_event_is_rejected_with_the_reason() {
        for (event, reason) in [
            (r#"{"price":1,"stock":1}"#, "missing field `product_id`"),
            (
                r#"{"product_id":1,"price":1,"price":2,"stock":1}"#,
                "duplicate field `price`",
            ),
            (r#"{"product_id":1"#, "EOF"),
            ("7", "invalid type: integer `7`"),
        ] {
            let Reply::Rejected(text) = reply("{}", event) else {
                panic!("{event} is not rejected")
            };
            assert!(text.contains(reason), "{text}");
        }
    }

    #[test]
    fn a_configuration_that_does_not_fit_is_refused_by_its_field() {
        let refused = |config: &str| Plugin::<UpdateProduct>::new(config).err().unwrap();
        assert_eq!(
            refused(r#"{"fields": ["price", "id"]}"#),
            "`fields`: `id` is the event's `product_id`, and never changes"
        );
        assert!(refused(r#"{"upsert": "yes"}"#).starts_with("`upsert`: invalid type"));
    }
}
