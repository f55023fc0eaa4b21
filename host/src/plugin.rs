//! Runs plugins: the only place that names the WebAssembly runtime.
//!
//! `runtime` is the engine and its clock; `component` turns a file into a prepared plugin and says in plain words what does not fit;
//! `instance` is one running copy, called batch by batch under `limits` and `bounds`, in one of the machine's `slots`; `imports` is all that a
//! plugin can reach, and `grants` what a stage adds to it; `inspect` looks at any file. A plugin gets bytes and gives bytes: what it answers is
//! checked in `reply`, outside of here.

pub(crate) mod bounds;
pub(crate) mod component;
pub(crate) mod grants;
pub(crate) mod imports;
pub(crate) mod inspect;
pub(crate) mod instance;
pub(crate) mod limits;
pub(crate) mod runtime;
pub(crate) mod slots;

#[cfg(test)]
pub(crate) mod tests;

/// The contract as generated from `wit/`.
pub(crate) mod contract {
    #![allow(missing_docs, reason = "generated; the WIT has the prose")]
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "processor",
        exports: { default: async },
    });

    pub(crate) use self::exports::wasmill::plugin::process::{Batch, Description, Replies};
    pub(crate) use self::wasmill::plugin::types::{
        Action, Document, Emission, Entry, Header, HeadersOut, Message, Part, Parts, Port, PortKind, Reply, Span,
    };
}
