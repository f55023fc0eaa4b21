//! What no answer of a server may carry into a dead letter, a log or `/status`: the address of a webhook, its token and its headers.
//!
//! Servers tell what they were sent: in the page of an error, in a redirect. Pure.

use url::Url;

/// What stands for it.
const HIDDEN: &str = "(hidden)";
/// Shorter texts are no secrets, and hiding them would leave nothing of an answer.
const CHARS_MIN: usize = 4;
/// From this length on a part of a path or a query may be a secret by itself.
const PART_CHARS_MIN: usize = 8;

/// The texts to hide of one output.
pub(super) struct Hidden(Vec<String>);

impl Hidden {
    /// Of an address, and of other texts that are sent to it.
    pub(super) fn new<'a>(url: &str, others: impl Iterator<Item = &'a str>) -> Self {
        let mut texts: Vec<String> = others.map(str::to_owned).collect();
        if let Ok(url) = Url::parse(url) {
            texts.push(url.path().to_owned());
            texts.extend(url.query().map(str::to_owned));
            texts.extend(url.query().map(|query| format!("{}?{query}", url.path())));
            let parts = url.path_segments().into_iter().flatten().map(str::to_owned);
            let parts = parts.chain(url.query_pairs().map(|(_, value)| value.into_owned()));
            texts.extend(parts.filter(|part| part.len() >= PART_CHARS_MIN));
        }
        // As JSON and HTML spell them.
        let spelt = |text: &String| [text.replace('/', "\\/"), text.replace('&', "&amp;")];
        texts.extend(texts.iter().flat_map(spelt).collect::<Vec<_>>());
        texts.retain(|text| text.len() >= CHARS_MIN);
        // The longest first: one may be a part of another.
        texts.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        texts.dedup();
        Self(texts)
    }

    /// A text without them; also without the beginning of one, at which the text may have been cut.
    pub(super) fn out_of(&self, text: &str) -> String {
        let mut shown = text.to_owned();
        for hidden in &self.0 {
            shown = shown.replace(hidden, HIDDEN);
        }
        let begun = |hidden: &String| {
            let ends = hidden.char_indices().map(|(at, _)| at).filter(|at| *at >= CHARS_MIN);
            ends.rev().find(|end| shown.ends_with(&hidden[..*end]))
        };
        let cut = self.0.iter().filter_map(begun).max();
        if let Some(cut) = cut {
            shown.truncate(shown.len() - cut);
            shown.push_str(HIDDEN);
        }
        shown
    }
}

/// Scheme and host of where a redirect leads, as far as it can be read.
pub(super) fn place_of(location: &str, from: &str) -> String {
    let target = Url::parse(from).and_then(|from| from.join(location));
    let shown = target.ok().and_then(|target| {
        let port = target.port().map(|port| format!(":{port}")).unwrap_or_default();
        Some(format!("{}://{}{port}", target.scheme(), target.host_str()?))
    });
    shown.unwrap_or_else(|| "an address that cannot be read".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://example.com/services/T0P-SECRET?key=hunter2-hunter2&x=1";

    #[test]
    fn what_a_server_echoes_is_not_shown() {
        let hidden = Hidden::new(URL, ["a-token", "on"].into_iter());
        for (text, shown) in [
            ("no such path", "no such path"),
            (
                "POST /services/T0P-SECRET?key=hunter2-hunter2&x=1 is on",
                "POST (hidden) is on",
            ),
            ("<b>/services/T0P-SECRET</b>", "<b>(hidden)</b>"),
            ("T0P-SECRET is unknown", "(hidden) is unknown"),
            ("?key=hunter2-hunter2&amp;x=1.", "?(hidden)."),
            (r#"{"path":"\/services\/T0P-SECRET"}"#, r#"{"path":"(hidden)"}"#),
            ("Authorization: Bearer a-token", "Authorization: Bearer (hidden)"),
            ("cut: /services/T0P-SE", "cut: /(hidden)/(hidden)"),
        ] {
            assert_eq!(hidden.out_of(text), shown);
        }
        assert_eq!(
            Hidden::new("http://example.com", [].into_iter()).out_of("a / b"),
            "a / b"
        );
    }

    #[test]
    fn of_a_redirect_only_the_place_is_shown() {
        for (location, place) in [
            ("/elsewhere?key=1", "https://example.com"),
            ("http://localhost:8080/T0P", "http://localhost:8080"),
            ("//localhost/T0P", "https://localhost"),
            ("https://HOST:T0P@localhost/", "https://localhost"),
            ("mailto:T0P@example.com", "an address that cannot be read"),
            ("http://[T0P", "an address that cannot be read"),
        ] {
            assert_eq!(place_of(location, URL), place, "{location}");
        }
    }
}
