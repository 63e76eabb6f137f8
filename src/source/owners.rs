//! Names of users and groups.

use std::collections::HashMap;
use std::sync::Arc;

use nix::unistd::{Gid, Group, Uid, User};

use crate::vault::tree::Owner;

/// Looks owners up once each.
#[derive(Debug, Default)]
pub struct Owners {
    known: HashMap<(u32, u32), Arc<Owner>>,
}

impl Owners {
    /// The owner with these numbers and the names that the machine has for them. A name service
    /// that fails counts as having no name: the numbers are what a restore needs.
    pub fn get(&mut self, uid: u32, gid: u32) -> Arc<Owner> {
        let make = || {
            let user = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|u| u.name).unwrap_or_default();
            let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|g| g.name).unwrap_or_default();
            Arc::new(Owner { uid, gid, user, group })
        };
        self.known.entry((uid, gid)).or_insert_with(make).clone()
    }
}
