//! Whether a caller has shown the token.

use axum::http::{HeaderMap, header};

use crate::config::Secret;

/// Whether the token stands in `Authorization: Bearer`.
pub(crate) fn is_shown(headers: &HeaderMap, token: &Secret) -> bool {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    same(given.as_bytes(), token.expose().as_bytes())
}

/// Compares without telling by its time where the difference is.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .zip(right)
            .fold(0, |difference, (l, r)| difference | (l ^ r))
            == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(same(b"secret", b"secret"));
        for wrong in [&b""[..], b"secre", b"secreT", b"secrets"] {
            assert!(!same(wrong, b"secret"));
        }
    }
}
