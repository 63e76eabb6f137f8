//! Who may work in a vault at the same time: many writers, or one prune.
//!
//! A writer takes blobs for known that no manifest names yet; a prune beside it could delete them.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::model::{Progress, Result};

#[derive(Debug, Default)]
struct State {
    writers: usize,
    pruning: bool,
}

/// The gate of one vault.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<(Mutex<State>, Condvar)>);

/// Leave to write, or to prune; given back when dropped.
#[derive(Debug)]
pub struct Pass {
    gate: Gate,
    prune: bool,
}

impl Gate {
    /// Waits until no prune is at work.
    pub fn enter(&self) -> Pass {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while state.pruning {
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.writers += 1;
        Pass { gate: self.clone(), prune: false }
    }

    /// Waits until nobody else is at work, or the waiting is cancelled.
    pub fn enter_alone(&self, progress: &Progress) -> Result<Pass> {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while state.pruning || state.writers > 0 {
            progress.check()?;
            let tick = Duration::from_millis(200);
            state = self.0.1.wait_timeout(state, tick).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.pruning = true;
        Ok(Pass { gate: self.clone(), prune: true })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.gate.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.prune {
            state.pruning = false
        } else {
            state.writers -= 1
        }
        self.gate.0.1.notify_all();
    }
}
