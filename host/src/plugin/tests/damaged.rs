//! Plugin files with wrong bytes in them: each is refused, or runs as a plugin; none harms the host.

use super::{Stand, checkout, patient};
use crate::plugin::component::Binary;
use crate::plugin::limits::Limits;
use crate::plugin::runtime::Runtime;

/// Random numbers (splitmix64) from a seed, so that a failure is repeated.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }
}

/// Loads the file and, if it is taken, calls what is in it. True: it is still a plugin.
fn is_plugin(runtime: &Runtime, bytes: Vec<u8>) -> bool {
    let limits = Limits {
        memory_bytes: 16 * 1024 * 1024,
        deadline: std::time::Duration::from_millis(100),
        deadline_record: std::time::Duration::from_millis(100),
        ..patient()
    };
    let config = r#"{"prefix": "p"}"#;
    let Ok(stand) = Stand::load(runtime, &Binary::new(bytes), config, limits) else {
        return false;
    };
    if let Ok(mut instance) = stand.try_instance(crate::metrics::PluginMetrics::unheard()) {
        // Any answer and any fault will do: what it computes is its own affair.
        let _ = stand.ask(&mut instance, &super::records(&["forward", "17", "echo"]));
    }
    true
}

fn small() -> Vec<u8> {
    super::evil::component::Module::default().component()
}

fn golden() -> Vec<u8> {
    std::fs::read(checkout("host/tests/data/golden/golden-0.1.0.wasm")).unwrap()
}

#[test]
fn a_file_that_ends_too_early_is_refused_wherever_it_ends() {
    let runtime = Runtime::uncached().unwrap();
    for whole in [small(), golden()] {
        for cut in 0..150 {
            let end = whole.len() * cut / 150;
            assert!(!is_plugin(&runtime, whole[..end].to_vec()), "{end} of {}", whole.len());
        }
    }
}

#[test]
fn a_file_with_any_bits_flipped_is_refused_or_runs_as_a_plugin() {
    let runtime = Runtime::uncached().unwrap();
    let (small, golden) = (small(), golden());
    let mut plugins = 0;
    for seed in 0..400 {
        println!("seed {seed}");
        let mut numbers = Numbers(seed);
        // The large one takes its time to be compiled.
        let mut bytes = if seed % 50 == 0 { golden.clone() } else { small.clone() };
        for _ in 0..=numbers.below(3) {
            let at = numbers.below(bytes.len());
            bytes[at] ^= 1 << numbers.below(8);
        }
        plugins += usize::from(is_plugin(&runtime, bytes));
    }
    assert!((20..380).contains(&plugins), "{plugins} of 400 were still plugins");
}
