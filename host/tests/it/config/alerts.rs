//! Outputs that alert somebody, and the mail server: what is accepted, and what is not. And how to get into a secured Kafka.

use std::time::Duration;

use wasmill::config::{Broker, Encryption, Recipients, Target};

use super::{check, check_with, with_kafka_lines};

/// A file whose one stage leads there.
fn leading_to(output: &str) -> String {
    let head = "app: noaa\nkafka: {bootstrap.servers: 'localhost:9092'}\nsmtp: {url: 'smtp://example.com'}\n";
    format!("{head}stages:\n  freeze:\n    plugin: p.wasm\n    input: in\n    output: {output}\n")
}

fn with_server(server: &str) -> String {
    leading_to("out").replace("{url: 'smtp://example.com'}", server)
}

#[track_caller]
fn refused(text: &str, words: &str) {
    let mistakes = check(text).expect_err(words);
    assert!(mistakes.contains(words), "`{words}` is not in\n{mistakes}");
    assert!(!mistakes.contains("hunter2"), "a secret is told:\n{mistakes}");
}

#[test]
fn a_webhook_has_defaults_and_hides_its_address() {
    let pipeline = check(&leading_to("{webhook: {url: 'https://example.com:8443/T0P/SECRET'}}")).unwrap();
    let Some(Target::Webhook(output)) = pipeline.stages[0].outputs.targets().next() else {
        panic!("no webhook");
    };
    assert_eq!(output.host, "example.com:8443");
    assert_eq!(output.content_type, "application/json");
    assert_eq!(output.effort.timeout, Duration::from_secs(30));
    assert_eq!(output.effort.give_up, Duration::from_secs(300));
    assert_eq!(output.effort.lanes, 4);
    assert!(output.token.is_none() && output.headers.is_empty());
    assert!(!format!("{pipeline:?}").contains("SECRET"), "the address is shown");
}

#[test]
fn mail_goes_by_a_server_that_is_encrypted_unless_it_is_said_otherwise() {
    for (server, host, port, encryption) in [
        ("{url: 'smtp://example.com'}", "example.com", 587, Encryption::StartTls),
        ("{url: 'smtps://example.com'}", "example.com", 465, Encryption::Tls),
        ("{url: 'smtp://[::1]:25', starttls: never}", "::1", 25, Encryption::None),
        (
            "{url: 'smtp://example.com:2525', username: me, password: {env: PASSWORD}}",
            "example.com",
            2525,
            Encryption::StartTls,
        ),
    ] {
        let section = check(&with_server(server)).unwrap().smtp.unwrap();
        assert_eq!(
            (section.host.as_str(), section.port, section.encryption),
            (host, port, encryption)
        );
    }
}

#[test]
fn recipients_are_addresses_or_come_out_of_the_record() {
    let to = |to: &str| {
        let text = leading_to(&format!("{{smtp: {{from: a@example.com, to: {to}, subject: x}}}}"));
        let pipeline = check(&text).unwrap();
        match pipeline.stages[0].outputs.targets().next() {
            Some(Target::Smtp(output)) => output.to.clone(),
            _ => panic!("no mail"),
        }
    };
    assert!(matches!(to("b@example.com"), Recipients::Fixed(all) if all.len() == 1));
    assert!(matches!(to("[b@example.com, Somebody <c@example.com>]"), Recipients::Fixed(all) if all.len() == 2));
    let field = to("{json: /email, domains: [Example.com]}");
    assert!(
        matches!(field, Recipients::Field { pointer, domains } if pointer == "/email" && domains == ["example.com"])
    );
}

#[test]
fn a_mistake_is_told_without_the_address() {
    let hook = |keys: &str| leading_to(&format!("{{webhook: {{{keys}}}}}"));
    let url = "url: 'https://example.com/h'";
    refused(&hook(""), "missing key `url`");
    refused(&hook("url: 'hunter2'"), "this is no URL");
    refused(&hook("url: 'ftp://example.com/hunter2'"), "http:// or https://");
    refused(
        &hook("url: 'http://example.com:hunter2@example.com/'"),
        "no credentials",
    );
    refused(
        &hook(&format!("{url}, token: \"a\\r\\nb\"")),
        "one line of printable ASCII",
    );
    refused(
        &hook(&format!("{url}, headers: {{X: \"a\\nb\"}}")),
        "one line of printable ASCII",
    );
    refused(&hook(&format!("{url}, headers: {{\"a b\": c}}")), "no name of a header");
    refused(
        &hook(&format!("{url}, headers: {{Idempotency-Key: c}}")),
        "set by the host",
    );
    refused(
        &hook(&format!("{url}, headers: {{Content-Length: 1}}")),
        "set by the host",
    );
    refused(
        &hook(&format!("{url}, token: t, headers: {{authorization: x}}")),
        "keep one",
    );
    refused(
        &hook(&format!("{url}, headers: {{X-Team: a, x-team: b}}")),
        "`x-team` is given twice",
    );
    refused(&hook(&format!("{url}, content-type: json")), "no media type");
    refused(&hook(&format!("{url}, give-up: 8days")), "out of range");
    refused(&hook(&format!("{url}, lanes: 0")), "1 to 64");
    refused(&hook(&format!("{url}, method: PUT")), "unknown key `method`");

    let mail = |keys: &str| leading_to(&format!("{{smtp: {{{keys}}}}}"));
    refused(&mail("from: a@example.com, subject: x"), "missing key `to`");
    refused(&mail("from: nobody, to: a@example.com, subject: x"), "no address");
    refused(&mail("from: a@example.com, to: [], subject: x"), "1 to 50 addresses");
    refused(
        &mail("from: a@example.com, to: 'b@example.com, c@example.com', subject: x"),
        "no address",
    );
    refused(
        &mail("from: a@example.com, to: {json: email}, subject: x"),
        "no JSON pointer",
    );
    refused(
        &mail("from: a@example.com, to: {json: /e, domains: ['a b']}, subject: x"),
        "no domain",
    );
    refused(
        &mail("from: a@example.com, to: b@example.com, subject: '{value}'"),
        "`{value}` is unknown",
    );
    refused(
        &mail("from: a@example.com, to: b@example.com, subject: \"a\\r\\nb\""),
        "one line",
    );

    refused(&with_server("{}"), "missing key `url`");
    refused(&with_server("{url: 'example.com:587'}"), "smtp://HOST:587");
    refused(
        &with_server("{url: 'smtp://example.com:hunter2@example.com'}"),
        "no credentials",
    );
    refused(&with_server("{url: 'smtp://example.com/x'}"), "ends with its port");
    refused(
        &with_server("{url: 'smtp://example.com', username: me}"),
        "needs a `password`",
    );
    refused(
        &with_server("{url: 'smtps://example.com', starttls: never}"),
        "from its first byte",
    );
    let plain = "{url: 'smtp://example.com', starttls: never, username: me, password: hunter2}";
    refused(&with_server(plain), "could be read on its way");

    let two = "{webhook: {url: 'http://example.com'}, elasticsearch: {index: x}}";
    refused(&leading_to(two), "one place");
}

#[test]
fn mail_without_a_server_is_a_mistake_but_in_dev() {
    let text = leading_to("{smtp: {from: a@example.com, to: b@example.com, subject: x}}");
    let text = text.replace("smtp: {url: 'smtp://example.com'}\n", "");
    refused(&text, "add `smtp: {url: ..}`");
    check_with(&text, Broker::Embedded).unwrap();
}

#[test]
fn certificates_of_kafka_lie_beside_the_file_and_are_not_named_for_nothing() {
    let tls = "  security.protocol: ssl\n  ssl.ca.location: ca.pem\n  ssl.crl.location: /etc/crl.pem\n";
    let kafka = check(&with_kafka_lines(tls)).unwrap().kafka;
    let value = |name: &str| kafka.get(name).unwrap().value.expose().to_owned();
    assert_eq!(value("ssl.ca.location"), "pipelines/ca.pem");
    assert_eq!(value("ssl.crl.location"), "/etc/crl.pem");
    let probe = "  security.protocol: ssl\n  ssl.ca.location: probe\n";
    let kafka = check(&with_kafka_lines(probe)).unwrap().kafka;
    assert_eq!(kafka.get("ssl.ca.location").unwrap().value.expose(), "probe");

    refused(
        &with_kafka_lines("  ssl.ca.location: ca.pem\n"),
        "`ssl.ca.location` has no effect unless `security.protocol` is ssl or sasl_ssl",
    );
}
