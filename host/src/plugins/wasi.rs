//! WASI 0.2 without any power, for plugins that were granted [`Want::Wasi`](super::Want::Wasi): the runtimes of other
//! languages import it whether the plugin uses it or not.
//!
//! There are no files, no environment and no arguments, nothing comes from standard input, output goes to the plugin's
//! log or nowhere, the clock stands still, and random numbers are the same in every call: equal calls stay equal. A
//! function that could do more than that, of a file or a socket, ends the call with its name.

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType};
use wasmtime::{Engine, StoreContextMut};

use super::limits::CallState;

/// 2026-01-01T00:00:00Z, for ever.
const NOW: Datetime = Datetime { seconds: 1_767_225_600, nanoseconds: 0 };
/// What a runtime asks at once to seed itself is some 32 bytes.
const MAX_RANDOM_BYTES: u64 = 64 << 10;
/// What a program may write before it asks again.
const WRITE_BYTES: u64 = 64 << 10;

/// Stream, file, pollable or terminal: there is nothing behind it.
struct Nothing;

#[derive(Clone, Copy, ComponentType, Lift, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[allow(dead_code, reason = "the variant has two cases, and nothing fails here")]
    LastOperationFailed(Resource<Nothing>),
    #[component(name = "closed")]
    Closed,
}

/// What a call has drawn of its random numbers: each call starts with the same ones.
#[derive(Debug, Default)]
pub(super) struct Random(u64);

impl Random {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn bytes(&mut self, n: u64) -> wasmtime::Result<Vec<u8>> {
        if n > MAX_RANDOM_BYTES {
            wasmtime::bail!("it asked for {n} random bytes at once, more than {MAX_RANDOM_BYTES}");
        }
        Ok((0..n).map(|_| self.next() as u8).collect())
    }
}

/// The interface that `import` names, where it is one of WASI 0.2: `cli/environment`.
pub(super) fn interface(import: &str) -> Option<&str> {
    let (interface, version) = import.strip_prefix("wasi:")?.split_once('@')?;
    version.starts_with("0.2.").then_some(interface)
}

/// Defines what `component` imports of WASI, whatever the patch version it was built against.
pub(super) fn add_to_linker(
    linker: &mut Linker<CallState>,
    engine: &Engine,
    component: &Component,
) -> wasmtime::Result<()> {
    for (name, import) in component.component_type().imports(engine) {
        let (Some(interface), ComponentItem::ComponentInstance(instance)) = (interface(name), import.ty) else {
            continue;
        };
        let mut linked = linker.instance(name)?;
        for (item, export) in instance.exports(engine) {
            match export.ty {
                ComponentItem::Resource(_) => linked.resource(item, ResourceType::host::<Nothing>(), |_, _| Ok(()))?,
                ComponentItem::ComponentFunc(_) => define(&mut linked, interface, item)?,
                _ => {}
            }
        }
    }
    Ok(())
}

type Store<'a> = StoreContextMut<'a, CallState>;
type Handle = Resource<Nothing>;
type Written = Result<(), StreamError>;

fn handle() -> Handle {
    Resource::new_own(0)
}

/// One function; its type is checked against the component's when that is linked.
fn define(linked: &mut LinkerInstance<CallState>, interface: &str, item: &str) -> wasmtime::Result<()> {
    match (interface, item) {
        ("cli/environment", "get-environment") => linked.func_wrap(item, |_, ()| Ok((Vec::<(String, String)>::new(),))),
        ("cli/environment", "get-arguments") => linked.func_wrap(item, |_, ()| Ok((Vec::<String>::new(),))),
        ("cli/environment", "initial-cwd") => linked.func_wrap(item, |_, ()| Ok((None::<String>,))),
        ("cli/stdin", "get-stdin") | ("cli/stdout", "get-stdout") | ("cli/stderr", "get-stderr") => {
            linked.func_wrap(item, |_, ()| Ok((handle(),)))
        }
        ("cli/terminal-stdin", "get-terminal-stdin")
        | ("cli/terminal-stdout", "get-terminal-stdout")
        | ("cli/terminal-stderr", "get-terminal-stderr") => linked.func_wrap(item, |_, ()| Ok((None::<Handle>,))),
        ("clocks/wall-clock", "now") => linked.func_wrap(item, |_, ()| Ok((NOW,))),
        ("clocks/wall-clock", "resolution") => {
            linked.func_wrap(item, |_, ()| Ok((Datetime { seconds: 1, nanoseconds: 0 },)))
        }
        ("clocks/monotonic-clock", "now") => linked.func_wrap(item, |_, ()| Ok((0_u64,))),
        ("clocks/monotonic-clock", "resolution") => linked.func_wrap(item, |_, ()| Ok((1_u64,))),
        ("clocks/monotonic-clock", "subscribe-instant" | "subscribe-duration") => {
            linked.func_wrap(item, |_, (_,): (u64,)| Ok((handle(),)))
        }
        ("filesystem/preopens", "get-directories") => {
            linked.func_wrap(item, |_, ()| Ok((Vec::<(Handle, String)>::new(),)))
        }
        // Whoever waits goes on at once: no time passes here.
        ("io/poll", "poll") => linked.func_wrap(item, |_, (pollables,): (Vec<Handle>,)| {
            Ok(((0..pollables.len() as u32).collect::<Vec<u32>>(),))
        }),
        ("io/poll", "[method]pollable.ready") => linked.func_wrap(item, |_, (_,): (Handle,)| Ok((true,))),
        ("io/poll", "[method]pollable.block") => linked.func_wrap(item, |_, (_,): (Handle,)| Ok(())),
        ("io/streams", "[method]input-stream.read" | "[method]input-stream.blocking-read") => {
            linked.func_wrap(item, |_, (_, _): (Handle, u64)| Ok((Err::<Vec<u8>, _>(StreamError::Closed),)))
        }
        ("io/streams", "[method]input-stream.subscribe" | "[method]output-stream.subscribe") => {
            linked.func_wrap(item, |_, (_,): (Handle,)| Ok((handle(),)))
        }
        ("io/streams", "[method]output-stream.check-write") => {
            linked.func_wrap(item, |_, (_,): (Handle,)| Ok((Ok::<u64, StreamError>(WRITE_BYTES),)))
        }
        ("io/streams", "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush") => {
            linked.func_wrap(item, |_, (_, _): (Handle, Vec<u8>)| Ok((Written::Ok(()),)))
        }
        ("io/streams", "[method]output-stream.flush" | "[method]output-stream.blocking-flush") => {
            linked.func_wrap(item, |_, (_,): (Handle,)| Ok((Written::Ok(()),)))
        }
        ("random/random", "get-random-bytes") | ("random/insecure", "get-insecure-random-bytes") => {
            linked.func_wrap(item, |mut store: Store, (n,): (u64,)| Ok((store.data_mut().random.bytes(n)?,)))
        }
        ("random/random", "get-random-u64") | ("random/insecure", "get-insecure-random-u64") => {
            linked.func_wrap(item, |mut store: Store, ()| Ok((store.data_mut().random.next(),)))
        }
        ("random/insecure-seed", "insecure-seed") => {
            linked.func_wrap(item, |_, ()| Ok(((0x7475_6e65_736d_6974_u64, 0x6820_706c_7567_696e_u64),)))
        }
        _ => {
            let function = format!("wasi:{interface}#{item}");
            linked.func_new(item, move |_, _, _, _| {
                wasmtime::bail!(
                    "it called `{function}`, and WASI is without power here: no files, network or processes"
                )
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_interfaces_of_wasi_0_2_are_served() {
        assert_eq!(interface("wasi:cli/environment@0.2.12"), Some("cli/environment"));
        assert_eq!(interface("wasi:cli/environment@0.3.0"), None);
        assert_eq!(interface("wasi:cli/environment@0.20.0"), None);
        assert_eq!(interface("tenant:cli/environment@0.2.0"), None);
    }

    #[test]
    fn random_numbers_are_the_same_in_every_call_and_capped() {
        let (mut first, mut second) = (Random::default(), Random::default());
        let bytes = first.bytes(16).unwrap();
        assert_eq!(second.bytes(16).unwrap(), bytes);
        assert_ne!(second.bytes(16).unwrap(), bytes);
        let error = first.bytes(1 << 40).unwrap_err().to_string();
        assert_eq!(error, "it asked for 1099511627776 random bytes at once, more than 65536");
    }

    /// What linking says of a component that imports `function` of `interface`.
    fn link(interface: &str, function: &str) -> wasmtime::Result<()> {
        let text = format!("(component (import \"wasi:{interface}@0.2.6\" (instance {function})))");
        let engine = Engine::default();
        let component = Component::new(&engine, wat::parse_str(text).unwrap())?;
        let mut linker = Linker::new(&engine);
        add_to_linker(&mut linker, &engine, &component)?;
        linker.instantiate_pre(&component).map(|_| ())
    }

    #[test]
    fn a_function_under_a_known_name_but_of_another_type_is_refused_before_it_runs() {
        assert!(link("cli/environment", "(export \"get-arguments\" (func (result (list string))))").is_ok());
        let error = link("cli/environment", "(export \"get-arguments\" (func (result u32)))").unwrap_err();
        assert!(format!("{error:#}").contains("type mismatch"), "{error:#}");
        let error =
            link("random/random", "(export \"get-random-u64\" (func (param \"x\" u64) (result u64)))").unwrap_err();
        assert!(format!("{error:#}").contains("type mismatch"), "{error:#}");
        // One that ends the call may have any type.
        assert!(link("sockets/network", "(export \"whatever\" (func (param \"x\" u8) (result string)))").is_ok());
    }

    #[test]
    fn what_is_no_function_type_or_resource_is_not_linked() {
        assert!(link("cli/environment", "(export \"nested\" (instance (export \"f\" (func))))").is_err());
    }
}
