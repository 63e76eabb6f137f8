//! Telling systemd. Without it all of this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::debug!("the service manager could not be told: {e}");
    }
}

/// The daemon serves.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It starts, is at this, and may take another ten minutes for it.
pub fn starting(step: &str) {
    tell(&[NotifyState::Status(step), NotifyState::ExtendTimeoutUsec(600_000_000)]);
}

/// What it is about.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// It stops, and may take this long.
pub fn stopping(limit: Duration) {
    let micros = u32::try_from(limit.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros)]);
}

/// It lives.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is expected, if at all.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}
