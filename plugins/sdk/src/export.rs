//! What `processor!` expands to, and the exports of a component behind it.
//!
//! A component is one plugin with one configuration, called by one thread, so its instance is a
//! thread-local. A panic is told to the host before it traps, because a trap by itself has no text.

use std::cell::RefCell;
use std::marker::PhantomData;

use crate::Processor;
use crate::bindings::exports::wasmill::plugin::{process, self_test};
use crate::bindings::wasmill::plugin::types::{Batch, Description, Replies};
use crate::instance::Instance;

/// The package that a plugin is built from; implemented by `processor!`, which alone can read the
/// plugin crate's variables.
pub trait Package {
    /// Its name.
    const CRATE_NAME: &'static str;
    /// Its version.
    const CRATE_VERSION: &'static str;
}

/// Makes a type that implements [`Processor`](crate::Processor) the plugin that this crate builds
/// to.
///
/// The exports are emitted in a build for WebAssembly only; natively the crate stays an ordinary
/// library, which tests link.
#[macro_export]
macro_rules! processor {
    ($plugin:ty) => {
        impl $crate::export::Package for $plugin {
            const CRATE_NAME: &'static str = ::core::env!("CARGO_PKG_NAME");
            const CRATE_VERSION: &'static str = ::core::env!("CARGO_PKG_VERSION");
        }

        #[cfg(target_family = "wasm")]
        const _: () = {
            type Exported = $crate::export::Component<$plugin>;
    $crate::bindings::export!(Exported with_types_in $crate::bindings);
        };
    };
}

/// The exports of a component whose plugin is `P`.
pub struct Component<P>(PhantomData<P>);

/// The instance without its type, because a static has no type parameters.
trait Configured {
    fn process(&mut self, batch: &Batch) -> Replies;
    fn self_test(&mut self) -> Result<(), String>;
}

impl<P: Processor> Configured for Instance<P> {
    fn process(&mut self, batch: &Batch) -> Replies {
        Instance::process(self, batch)
    }

    fn self_test(&mut self) -> Result<(), String> {
        Instance::self_test(self)
    }
}

thread_local! {
    static CONFIGURED: RefCell<Option<Box<dyn Configured>>> = const { RefCell::new(None) };
}

/// Calls the configured instance.
fn with_configured<T>(name: &str, call: impl FnOnce(&mut dyn Configured) -> T) -> T {
    tell_panics();
    CONFIGURED.with_borrow_mut(|configured| match configured {
        Some(configured) => call(configured.as_mut()),
        None => panic!("`{name}` was called before `configure`"),
    })
}

impl<P: Processor + Package> self_test::Guest for Component<P> {
    fn self_test() -> Result<(), String> {
        with_configured("self-test", |configured| configured.self_test())
    }
}

impl<P: Processor + Package> process::Guest for Component<P> {
    fn describe() -> Description {
        tell_panics();
        Instance::<P>::description(P::CRATE_NAME, P::CRATE_VERSION)
    }

    fn configure(config: String) -> Result<(), String> {
        tell_panics();
        CONFIGURED.set(Some(Box::new(Instance::<P>::new(&config)?)));
        Ok(())
    }

    fn process(batch: Batch) -> Replies {
        with_configured("process", |configured| configured.process(&batch))
    }
}

#[cfg(target_family = "wasm")]
fn tell_panics() {
    static HOOK: std::sync::Once = std::sync::Once::new();
    // The hook that it replaces would write the same text to standard error, and so to the log a second
    // time.
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let message = panic.payload_as_str().unwrap_or("panicked without a text");
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            crate::bindings::wasmill::plugin::log::panicked(message, &place);
        }));
    });
}

/// Natively a panic is the test's own affair, and there is no host to tell.
#[cfg(not(target_family = "wasm"))]
fn tell_panics() {}

#[cfg(test)]
mod tests {
    use super::{Component, Package};
    use crate::bindings::exports::wasmill::plugin::process::Guest as _;
    use crate::bindings::exports::wasmill::plugin::self_test::Guest as _;
    use crate::bindings::wasmill::plugin::types::{Batch, Entry, Parts, PortKind, Reply, Span};
    use crate::{DocumentPort, MessagePort, NoConfig, Output, Port, Processor, Reads, Record, Rejection};

    const MESSAGES: MessagePort = MessagePort::new(0, "m");

    struct Forward;

    impl Processor for Forward {
        type Config = NoConfig;
        const VERSION: Option<&'static str> = Some("7.0.0");
        const PORTS: &'static [Port] = &[Port::Message(MESSAGES), Port::Document(DocumentPort::new(1, "d"))];
        const READS: Reads = Reads {
            key: true,
            ..Reads::VALUE
        };
        const ATTRIBUTES: &'static [(&'static str, &'static str)] = &[("a", "b")];

        fn configure(_: NoConfig) -> Result<Forward, String> {
            Ok(Forward)
        }

        fn process(&mut self, _: &Record<'_>, out: &mut Output<'_>) -> Result<(), Rejection> {
            out.forward(MESSAGES);
            Ok(())
        }
    }

    crate::processor!(Forward);

    #[test]
    fn a_plugin_describes_itself_by_its_constants_and_its_crate() {
        assert_eq!(<Forward as Package>::CRATE_VERSION, env!("CARGO_PKG_VERSION"));
        let description = Component::<Forward>::describe();
        assert_eq!(
            (description.name.as_str(), description.version.as_str()),
            ("wasmill-plugin", "7.0.0")
        );
        let ports: Vec<_> = description
            .ports
            .iter()
            .map(|port| (port.name.as_str(), port.kind))
            .collect();
        assert_eq!(ports, [("m", PortKind::Message), ("d", PortKind::Document)]);
        assert_eq!(description.reads.bits(), (Parts::KEY | Parts::VALUE).bits());
        assert_eq!(description.attributes, [("a".to_owned(), "b".to_owned())]);
        assert_eq!(description.state_version, 0);
    }

    #[test]
    fn a_batch_is_processed_by_the_instance_that_was_configured() {
        assert_eq!(
            Component::<Forward>::configure(r#"{"a": 1}"#.to_owned()),
            Err("`a`: unknown field `a`, there are no fields".to_owned())
        );
        assert_eq!(Component::<Forward>::configure("{}".to_owned()), Ok(()));
        let entry = Entry {
            offset: 0,
            timestamp_ms: None,
            key: None,
            value: None,
            headers: Span { start: 0, len: 0 },
        };
        let batch = Batch {
            topic: String::new(),
            partition: 0,
            data: Vec::new(),
            entries: vec![entry],
            headers: Vec::new(),
        };
        assert!(matches!(
            Component::<Forward>::process(batch).replies[..],
            [Reply::Forward(0)]
        ));
    }

    #[test]
    fn a_plugin_without_a_self_test_of_its_own_passes() {
        assert_eq!(Component::<Forward>::configure("{}".to_owned()), Ok(()));
        assert_eq!(Component::<Forward>::self_test(), Ok(()));
    }

    #[test]
    #[should_panic(expected = "before `configure`")]
    fn a_batch_before_the_configuration_panics() {
        Component::<Forward>::process(Batch {
            topic: String::new(),
            partition: 0,
            data: Vec::new(),
            entries: Vec::new(),
            headers: Vec::new(),
        });
    }
}
