//! A host that runs WebAssembly plugins over Kafka streams.
//!
//! The way of a record, in the order of the modules below: a worker (`worker`) reads it from Kafka (`kafka`), a batch is cut
//! (`batch`) and packed (`pack`), the plugin is called (`plugin`) and its answer checked (`reply`), each verdict is routed
//! (`route`) or becomes a dead letter (`dead_letter`), and what comes out is written together with the offsets (`sink`). What a
//! failing call leaves is taken apart in `work`, a record that the broker refuses is found by `refusal`, and `positions` knows what may
//! be committed. What goes to no topic goes first, through `external`, to `elasticsearch`. Records that come by HTTP are written by `ingest`. Around it: `config` reads the pipeline file, `prepare` proves that plugins fit it, `pipeline` runs it.

pub mod cli;
pub mod config;
pub(crate) mod prepare;
pub(crate) mod rights;
pub(crate) mod topics;

pub(crate) mod pipeline;
pub(crate) mod swap;
pub(crate) mod version;

pub(crate) mod worker;

pub(crate) mod assignment;
pub(crate) mod kafka;
pub(crate) mod positions;

pub(crate) mod batch;
pub(crate) mod pack;

pub(crate) mod plugin;
pub(crate) mod reply;
pub(crate) mod work;

pub(crate) mod breaker;
pub(crate) mod dead_letter;
pub(crate) mod fault;
pub(crate) mod refusal;
pub(crate) mod route;
pub(crate) mod sink;

pub(crate) mod alerts;
pub(crate) mod elasticsearch;
pub(crate) mod external;
pub(crate) mod ingest;

pub(crate) mod control;
pub(crate) mod http;
pub(crate) mod metrics;
pub(crate) mod status;

pub(crate) mod build;
pub(crate) mod dev;
pub(crate) mod dlq;
pub(crate) mod fixture;
pub(crate) mod pointer;
pub(crate) mod printable;

mod chaos;

#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
