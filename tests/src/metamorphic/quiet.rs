//! Panics that are results: of a run that fails, and of the hundreds that fail while its sequence is shrunk.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
    static TOLD: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// How many want nothing to be heard of panics in the background threads of databases.
static BACKGROUND_QUIET: AtomicUsize = AtomicUsize::new(0);

/// Runs something that may panic, and gives what the panic would have told.
pub fn quietly<R>(run: impl FnOnce() -> R) -> Result<R, String> {
    install_hook();
    IS_QUIET.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(run));
    IS_QUIET.set(false);
    outcome.map_err(|_| TOLD.take().unwrap_or_else(|| "a panic that was not told".to_owned()))
}

/// While it lives, nothing is heard of panics in the background threads of databases either: what they lead to is.
#[derive(Debug)]
pub struct QuietBackground(());

impl QuietBackground {
    /// From now on.
    pub fn begin() -> Self {
        BACKGROUND_QUIET.fetch_add(1, SeqCst);
        QuietBackground(())
    }
}

impl Drop for QuietBackground {
    fn drop(&mut self) {
        BACKGROUND_QUIET.fetch_sub(1, SeqCst);
    }
}

fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |panic| {
            let is_background =
                std::thread::current().name().is_some_and(|name| name.starts_with("terrace-"));
            if IS_QUIET.get() {
                TOLD.set(Some(panic.to_string()));
            } else if !is_background || BACKGROUND_QUIET.load(SeqCst) == 0 {
                usual(panic);
            }
        }));
    });
}
