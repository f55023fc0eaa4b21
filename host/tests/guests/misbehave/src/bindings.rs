//! What `wit/` says, as Rust types and traits.
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "generated; the prose is that of the WIT files"
)]

wit_bindgen::generate!({
    path: "../../../../wit",
    world: "processor",
});
