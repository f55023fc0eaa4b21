//! Components that no compiler makes: a core module in text, wrapped as an implementation of the world `processor`.
//!
//! The module answers as a good plugin does, by the bare canonical ABI; a test says which part of it is otherwise. A record whose value begins
//! with `!` is poison (`POISON`): what a `Module` has in `process`, `realloc` or `post` happens only then, so that records around it show
//! what it costs. Used by the library's tests, by `it` and by `real`.
#![allow(dead_code, reason = "each test binary uses its part")]

/// How long a poison record's value is at least; good values are shorter in their sum, so that the allocation for a batch tells whether
/// there is poison in it.
pub(crate) const POISON_BYTES: usize = 5_000;

/// The value of a poison record.
pub(crate) fn poison() -> Vec<u8> {
    let mut value = vec![b'.'; POISON_BYTES];
    value[0] = b'!';
    value
}

/// What is otherwise than in a good plugin: pieces of text, put into the module at their places.
#[derive(Clone, Copy, Default)]
pub(crate) struct Module {
    /// Imported functions, of those that `processor.wat` has.
    pub(crate) imports: &'static str,
    /// Memories, tables, globals, functions, `start`. Without a memory there is one of four pages.
    pub(crate) items: &'static str,
    /// Has its own memory, exported as `memory`, in `items`.
    pub(crate) own_memory: bool,
    /// At the start of `describe`, whose answer stands at 64.
    pub(crate) describe: &'static str,
    /// At the start of `configure`, whose answer stands at 128.
    pub(crate) configure: &'static str,
    /// In `process`, where there is poison; the answer stands at 192 and may be returned.
    pub(crate) process: &'static str,
    /// In every allocation; `$len` and `$align` tell what for.
    pub(crate) realloc: &'static str,
    /// After the answer to a batch with poison was read.
    pub(crate) post: &'static str,
    /// Core instances, each with a memory and a table, that are added to the component.
    pub(crate) more_instances: usize,
    /// Items of the component itself.
    pub(crate) more: &'static str,
}

/// What is around the module.
const AROUND: &str = include_str!("processor.wat");

impl Module {
    /// The component.
    pub(crate) fn component(&self) -> Vec<u8> {
        let mut more = self.more.to_owned();
        if self.more_instances > 0 {
            more += "(core module $more (memory 1) (table 1 funcref))";
            more += &"(core instance (instantiate $more))".repeat(self.more_instances);
        }
        let text = AROUND.replace(";; MODULE", &self.text()).replace(";; MORE", &more);
        wat::parse_str(text).unwrap()
    }

    fn text(&self) -> String {
        let Self {
            imports,
            items,
            describe,
            configure,
            process,
            realloc,
            post,
            ..
        } = self;
        let memory = if self.own_memory {
            ""
        } else {
            r#"(memory (export "memory") 4)"#
        };
        format!(
            r#"(core module $main
  {imports}
  {memory}
  {items}
  (global $heap (mut i32) (i32.const 65536))
  (global $is_poisoned (mut i32) (i32.const 0))
  ;; name, version, ports, schema, state version, reads, attributes
  (data (i32.const 64) "\00\01\00\00\04\00\00\00" "\10\01\00\00\05\00\00\00" "\40\01\00\00\01\00\00\00" "\00\00\00\00\00\00\00\00"
    "\00\00\00\00" "\02\00\00\00" "\00\00\00\00\00\00\00\00")
  (data (i32.const 256) "evil")
  (data (i32.const 272) "0.1.0")
  (data (i32.const 288) "out")
  (data (i32.const 320) "\20\01\00\00\03\00\00\00\00\00\00\00")
  (func $alloc (param $len i32) (result i32) (local $start i32)
    (local.set $start (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $start) (local.get $len)))
    (loop $more
      (if (i32.lt_u (i32.mul (memory.size) (i32.const 65536)) (global.get $heap))
        (then
          (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then (unreachable)))
          (br $more))))
    (local.get $start))
  (func (export "cabi_realloc") (param $old i32) (param $old_len i32) (param $align i32) (param $len i32) (result i32)
    {realloc}
    (call $alloc (local.get $len)))
  (func (export "wasmill:plugin/process@0.1.0#describe") (result i32)
    {describe}
    (i32.const 64))
  (func (export "wasmill:plugin/process@0.1.0#configure") (param $text i32) (param $text_len i32) (result i32)
    {configure}
    (i32.const 128))
  (func $look (param $at i32) (param $len i32) (result i32) (local $end i32)
    (local.set $end (i32.add (local.get $at) (local.get $len)))
    (block $no
      (loop $next
        (br_if $no (i32.ge_u (local.get $at) (local.get $end)))
        (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 33)) (then (return (i32.const 1))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (i32.const 0))
  (func (export "wasmill:plugin/process@0.1.0#process") (param $topic i32) (param $topic_len i32) (param $partition i32)
      (param $data i32) (param $data_len i32) (param $entries i32) (param $count i32) (param $headers i32) (param $headers_count i32)
      (result i32)
    (local $replies i32) (local $i i32)
    (local.set $replies (call $alloc (i32.mul (local.get $count) (i32.const 12))))
    (loop $next
      (if (i32.lt_u (local.get $i) (local.get $count))
        (then
          ;; forward to port 0
          (i32.store (i32.add (local.get $replies) (i32.mul (local.get $i) (i32.const 12))) (i32.const 1))
          (i32.store offset=4 (i32.add (local.get $replies) (i32.mul (local.get $i) (i32.const 12))) (i32.const 0))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next))))
    (memory.fill (i32.const 192) (i32.const 0) (i32.const 32))
    (i32.store (i32.const 200) (local.get $replies))
    (i32.store (i32.const 204) (local.get $count))
    (global.set $is_poisoned (call $look (local.get $data) (local.get $data_len)))
    (if (global.get $is_poisoned) (then
      {process}
    ))
    (i32.const 192))
  (func (export "cabi_post_wasmill:plugin/process@0.1.0#process") (param i32)
    (global.set $heap (i32.const 65536))
    (if (global.get $is_poisoned) (then
      {post}
    )))
)"#
        )
    }
}
