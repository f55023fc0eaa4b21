//! Write wasmill plugins in Rust.
//!
//! A plugin is a type that implements [`Processor`]: it is made from the stage's configuration, and
//! is then given one [`Record`] after the other with an [`Output`] to put into what it wants sent.
//! Batches, spans and replies, the terms of the contract with the host, stay inside this crate,
//! which allocates per batch and not per record.
//!
//! A plugin crate has `crate-type = ["cdylib", "rlib"]` and is built with `cargo build --release
//! --target wasm32-wasip2`. Its exports exist in that build only, so `cargo test` runs the same
//! code natively, through [`testing`].
//!
//! ```
//! use serde::Deserialize;
//! use wasmill_plugin::{MessagePort, Output, Port, Processor, Reads, Record, Rejection, testing};
//!
//! const DEAR: MessagePort = MessagePort::new(0, "dear");
//!
//! /// Lets through what costs more than a limit.
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct FilterPrice {
//!     limit: f64,
//! }
//!
//! #[derive(Deserialize)]
//! struct Product {
//!     price: f64,
//! }
//!
//! impl Processor for FilterPrice {
//!     type Config = FilterPrice;
//!     const PORTS: &'static [Port] = &[Port::Message(DEAR)];
//!     const READS: Reads = Reads::VALUE;
//!
//!     fn configure(config: FilterPrice) -> Result<FilterPrice, String> {
//!         Ok(config)
//!     }
//!
//!     fn process(&mut self, record: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
//!         let product: Product = record.json()?;
//!         if product.price > self.limit {
//!             out.forward(DEAR);
//!         }
//!         Ok(())
//!     }
//! }
//!
//! wasmill_plugin::processor!(FilterPrice);
//!
//! # fn main() -> Result<(), String> {
//! let mut plugin = testing::Plugin::<FilterPrice>::new(r#"{"limit": 10}"#)?;
//! assert_eq!(plugin.process(&testing::Input::value(r#"{"price": 12.5}"#)), testing::Reply::forwarded("dear"));
//! assert_eq!(plugin.process(&testing::Input::value(r#"{"price": 8}"#)), testing::Reply::Skipped);
//! # Ok(())
//! # }
//! ```

mod processor;
mod record;
mod text;

mod output;
mod rejection;

pub mod json;
pub mod log;
pub mod metrics;

#[cfg(not(target_family = "wasm"))]
pub mod testing;

mod answer;
mod instance;

#[cfg(not(target_family = "wasm"))]
mod capture;

#[doc(hidden)]
pub mod bindings;
#[doc(hidden)]
pub mod export;

pub use bindings::wasmill::plugin::types::Action;
pub use output::{DocumentBuilder, MessageBuilder, Output};
pub use processor::{DocumentPort, MessagePort, NoConfig, Port, Processor, Reads};
pub use record::{Header, Headers, Record};
pub use rejection::Rejection;
pub use text::Text;
