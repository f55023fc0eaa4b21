//! What `wit/` says, as Rust types and traits.
//!
//! The types are plain data and serve natively too; the imports are functions that a native build
//! must never call, and the exports are emitted by `processor!` in the plugin's crate, in a build
//! for WebAssembly only.
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "generated; the prose is that of the WIT files"
)]

wit_bindgen::generate!({
    path: "../../wit",
    world: "tested-processor",
    pub_export_macro: true,
    default_bindings_module: "wasmill_plugin::bindings",
    ownership: Borrowing { duplicate_if_necessary: false },
});
