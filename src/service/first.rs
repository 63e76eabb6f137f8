//! The first start: with nothing configured, a destination and an encrypted vault on it.

use super::Service;
use crate::catalog::destination::Place;
use crate::catalog::{Destination, Origin, Tables, VaultRow, meta};
use crate::model::{Error, Result};
use crate::store::LocalStore;

impl Service {
    /// Makes the destination `local` and the vault `main`, once. Cut short, it is taken up again.
    pub(super) fn first_start(&self) -> Result<()> {
        if self.catalog.read(meta::first_start_done)? {
            return Ok(());
        }
        let directory = &self.options.first_vault;
        let made = self.catalog.write(|w| {
            if w.count::<VaultRow>()? > 0 {
                return Ok(false);
            }
            if w.count::<Destination>()? == 0 {
                let id = w.next_id::<Destination>()?;
                let place = Place::Local { directory: directory.clone() };
                let row = Destination {
                    id,
                    name: "local".into(),
                    place,
                    max_backups: None,
                    created_at: self.now(),
                    origin: Origin::default(),
                };
                w.put(&row)?;
            }
            Ok(true)
        })?;
        if made {
            let context = |e: Error| e.context(format!("cannot make the first vault in {}", directory.display()));
            LocalStore::create_dir(directory).map_err(context)?;
            let id = self.make_vault("main", &["local".to_owned()], true, |_, _| Ok(())).map_err(context)?;
            tracing::info!("made vault main ({id}) in {}; keep a recovery key of it elsewhere", directory.display());
        }
        self.catalog.write(meta::set_first_start_done)
    }
}
