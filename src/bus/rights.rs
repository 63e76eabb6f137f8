//! Who may call what.
//!
//! Root and the daemon's own user always may. Everyone else needs polkit's word for the right
//! that the method asks for; where the bus has no polkit, the answer is no.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use zbus::Connection;
use zbus::message::{Flags, Header};
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

use super::error::Result;
use crate::model::{Error, ErrorKind};

/// One polkit action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Looking at anything.
    Read,
    /// Making and checking backups.
    Backup,
    /// Writing what is in a backup anywhere, which may be anything: as good as root.
    Restore,
    /// Removing backups and their data.
    Delete,
    /// Changing what is backed up, where to, and with which keys: as good as root.
    Configure,
}

impl Right {
    /// The polkit action's name.
    pub fn action(self) -> &'static str {
        match self {
            Self::Read => "org.strongroom1.read",
            Self::Backup => "org.strongroom1.backup",
            Self::Restore => "org.strongroom1.restore",
            Self::Delete => "org.strongroom1.delete",
            Self::Configure => "org.strongroom1.configure",
        }
    }

    /// The right that cancelling a job of this kind takes: that of starting it.
    pub fn of_job(kind: &str) -> Self {
        if ["restore", "export"].iter().any(|k| kind.contains(k)) {
            Self::Restore
        } else if ["delete", "remove", "prune"].iter().any(|k| kind.contains(k)) {
            Self::Delete
        } else if ["backup", "checkpoint", "verify", "sync", "salvage"].iter().any(|k| kind.contains(k)) {
            Self::Backup
        } else {
            Self::Configure
        }
    }
}

/// Asks the bus who is calling, and polkit whether they may.
#[derive(Debug, Default)]
pub struct Guard {
    // The connection owns the interfaces, and they own this: it must be let go in the end.
    connection: Mutex<Option<Connection>>,
}

/// What a user is called; the number where there is no name.
pub fn user_name(uid: u32) -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

fn denied(right: Right, why: impl std::fmt::Display) -> super::error::Error {
    Error::access_denied(format!("this needs the right {}: {why}", right.action())).into()
}

impl Guard {
    /// Says which connection calls come in on; until then, nobody may call.
    pub fn attach(&self, connection: &Connection) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
    }

    /// Lets the connection go; from then on, nobody may call.
    pub fn detach(&self) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Fails unless the sender of the message has the right.
    pub async fn check(&self, header: &Header<'_>, right: Right) -> Result<()> {
        self.caller(header, right).await.map(drop)
    }

    /// The same, and who that is.
    pub async fn caller(&self, header: &Header<'_>, right: Right) -> Result<u32> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (Some(connection), Some(sender)) = (connection, header.sender()) else {
            return Err(denied(right, "the caller is not known to the bus"));
        };
        let reply = connection
            .call_method(
                Some("org.freedesktop.DBus"),
                "/org/freedesktop/DBus",
                Some("org.freedesktop.DBus"),
                "GetConnectionUnixUser",
                &sender.as_str(),
            )
            .await
            .map_err(|_| denied(right, "the caller has left the bus"))?;
        let uid: u32 = reply.body().deserialize().map_err(|_| denied(right, "the bus does not know the caller"))?;
        if uid == 0 || uid == nix::unistd::geteuid().as_raw() {
            return Ok(uid);
        }
        ask_polkit(&connection, header, right).await?;
        Ok(uid)
    }
}

async fn ask_polkit(connection: &Connection, header: &Header<'_>, right: Right) -> Result<()> {
    let interactive = header.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH);
    let subject =
        Subject::new_for_message_header(header).map_err(|_| denied(right, "the caller is not known to the bus"))?;
    let flags =
        if interactive { CheckAuthorizationFlags::ALLOW_USER_INTERACTION } else { CheckAuthorizationFlags::empty() };
    let answer = async {
        let authority = AuthorityProxy::new(connection).await?;
        authority.check_authorization(&subject, right.action(), &HashMap::new(), flags, "").await
    };
    match answer.await {
        Ok(result) if result.is_authorized => Ok(()),
        Ok(result) if result.is_challenge && !interactive => Err(Error::new(
            ErrorKind::InteractiveAuthorizationRequired,
            format!("this needs the right {}, which polkit gives only after asking; allow interaction", right.action()),
        )
        .into()),
        Ok(_) => Err(denied(right, "polkit said no; ask an administrator")),
        Err(error) => {
            tracing::debug!(%error, "polkit did not answer");
            Err(denied(right, "only root has it here, since polkit does not answer on this bus"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancelling_takes_the_right_of_starting() {
        assert_eq!(Right::of_job("backup"), Right::Backup);
        assert_eq!(Right::of_job("verify"), Right::Backup);
        assert_eq!(Right::of_job("restore"), Right::Restore);
        assert_eq!(Right::of_job("delete_backup"), Right::Delete);
        assert_eq!(Right::of_job("verify_backup"), Right::Backup);
        assert_eq!(Right::of_job("checkpoint"), Right::Backup);
        assert_eq!(Right::of_job("delete_checkpoint"), Right::Delete);
        assert_eq!(Right::of_job("anything"), Right::Configure);
    }
}
