//! The interface `org.strongroom1.Manager`: one thin method per use case.
//!
//! The comments here are what `busctl introspect --xml-interface` shows: they are the manual.

use std::sync::Arc;

use zbus::message::Header as Call;
use zbus::object_server::SignalEmitter;
use zbus::wire::{ObjectPath, OwnedObjectPath as Job};

use super::error::Result;
use super::hub::Hub;
use super::rights::Right;
use super::wire::Dict;

/// The object at the root.
#[derive(Debug)]
pub struct Manager(Arc<Hub>);

impl Manager {
    /// The one manager.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self(hub)
    }
}

#[zbus::interface(name = "org.strongroom1.Manager")]
impl Manager {
    /// Makes a project, a group of resources, and answers with its id. Project `default` always exists.
    #[zbus(out_args("id"))]
    async fn add_project(&self, name: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<u64> {
        self.0.call(&by, Right::Configure, move |s| s.add_project(&name, options.read()?)).await
    }

    /// Lists projects. Keys of every list: `sort` (as, field names, a leading - reverses; default -id),
    /// `page_size` (1 to 1000; default 20), `page` (from 1). Answers how many there are before paging,
    /// and the page.
    #[zbus(out_args("count", "results"))]
    async fn list_projects(&self, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<(u64, Vec<Dict>)> {
        self.0.list(&by, Right::Read, move |s| s.list_projects(options.read()?)).await
    }

    /// Removes a project that has no resource.
    async fn remove_project(&self, project: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<()> {
        self.0.call(&by, Right::Configure, move |s| s.remove_project(&project, options.read()?)).await
    }

    /// Declares what is to be backed up, and answers with its id. Keys: `project` (s), `kind` (s: server,
    /// volume, share), `paths` (as, or aay where not UTF-8; absolute), `exclude` (as, gitignore syntax),
    /// `one_file_system` (b), `vault` (s), `browse` (s: root, strict, owner=USER), `units` (as),
    /// `unit_action` (s: none, freeze, stop; while a snapshot is taken), `snapshot` (s: auto, required, off),
    /// `extra_info` (s), `databases` (aa{sv}, each `kind` s postgresql, mariadb or sqlite; `names`, `socket`, `host`,
    /// `port`, `user`, `credential`, `path`, `name`). Paths of a volume are block devices or disk images.
    /// Right: configure, which is as good as root.
    #[zbus(out_args("id"))]
    async fn add_resource(&self, name: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<u64> {
        self.0.call(&by, Right::Configure, move |s| s.add_resource(&name, options.read()?)).await
    }

    /// Changes a resource; keys as in AddResource, and those not given keep their value.
    async fn update_resource(&self, resource: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<()> {
        self.0.call(&by, Right::Configure, move |s| s.update_resource(&resource, options.read()?)).await
    }

    /// Removes a resource. Its backups stay listed, browsable and restorable to a target.
    async fn remove_resource(&self, resource: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<()> {
        self.0.call(&by, Right::Configure, move |s| s.remove_resource(&resource, options.read()?)).await
    }

    /// One resource, by name, PROJECT/NAME or id.
    #[zbus(out_args("resource"))]
    async fn get_resource(&self, resource: String, #[zbus(header)] by: Call<'_>) -> Result<Dict> {
        self.0.object(&by, Right::Read, move |s| s.get_resource(&resource)).await
    }

    /// Lists resources. Keys: those of every list, and `project` (s), `name_regex` (s), `kind` (s),
    /// `unprotected` (b: nothing covers it), `never_backed_up` (b).
    #[zbus(out_args("count", "results"))]
    async fn list_resources(&self, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<(u64, Vec<Dict>)> {
        self.0.list(&by, Right::Read, move |s| s.list_resources(options.read()?)).await
    }

    /// Adds a place for vaults, and answers with its id. Both kinds take `max_backups` (u), `local` takes
    /// `directory` (s, absolute), `s3` the keys of docs/destinations.md, `bucket` and `credential` (s) first.
    #[zbus(out_args("id"))]
    async fn add_destination(
        &self,
        name: String,
        kind: String,
        options: Dict,
        #[zbus(header)] by: Call<'_>,
    ) -> Result<u64> {
        self.0.call(&by, Right::Configure, move |s| s.add_destination(&name, &kind, options.read()?)).await
    }

    /// Changes a destination; keys as in AddDestination.
    async fn update_destination(&self, destination: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<()> {
        self.0.call(&by, Right::Configure, move |s| s.update_destination(&destination, options.read()?)).await
    }

    /// Removes a destination that no vault uses. Its data stays.
    async fn remove_destination(&self, destination: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<()> {
        self.0.call(&by, Right::Configure, move |s| s.remove_destination(&destination, options.read()?)).await
    }

    /// One destination, without its secrets.
    #[zbus(out_args("destination"))]
    async fn get_destination(&self, destination: String, #[zbus(header)] by: Call<'_>) -> Result<Dict> {
        self.0.object(&by, Right::Read, move |s| s.get_destination(&destination)).await
    }

    /// Lists destinations. Keys: those of every list.
    #[zbus(out_args("count", "results"))]
    async fn list_destinations(&self, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<(u64, Vec<Dict>)> {
        self.0.list(&by, Right::Read, move |s| s.list_destinations(options.read()?)).await
    }

    /// Tries a destination. The job's result says what works, how fast, and what failed.
    #[zbus(out_args("job"))]
    async fn test_destination(&self, destination: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Job> {
        self.0.job(&by, Right::Configure, move |s| s.test_destination(&destination, options.read()?)).await
    }

    /// Makes a vault, and answers with its id. Keys: `destinations` (as: the first holds it, the others
    /// mirror it), `compression` (s: zstd:N, gzip:N, none), `encryption` (b; default true), `capacity` (t,
    /// bytes of the packs it stores: a backup that would exceed it fails and leaves nothing), `project` (s),
    /// `prune` (s, cron, in the machine's time zone), `verify_within` (u, days: everything is read share by share
    /// within them), `grace` (u, seconds).
    #[zbus(out_args("id"))]
    async fn add_vault(&self, name: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<u64> {
        self.0.call(&by, Right::Configure, move |s| s.add_vault(&name, options.read()?)).await
    }

    /// Changes a vault; keys as in AddVault.
    async fn update_vault(&self, vault: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<()> {
        self.0.call(&by, Right::Configure, move |s| s.update_vault(&vault, options.read()?)).await
    }

    /// Forgets a vault; with `delete_data` (b) true its data goes too, which takes the right delete as well.
    #[zbus(out_args("job"))]
    async fn remove_vault(&self, vault: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Job> {
        if options.has("delete_data") {
            self.0.guard.check(&by, Right::Delete).await?;
        }
        self.0.job(&by, Right::Configure, move |s| s.remove_vault(&vault, options.read()?)).await
    }

    /// One vault.
    #[zbus(out_args("vault"))]
    async fn get_vault(&self, vault: String, #[zbus(header)] by: Call<'_>) -> Result<Dict> {
        self.0.object(&by, Right::Read, move |s| s.get_vault(&vault)).await
    }

    /// Lists vaults. Keys: those of every list.
    #[zbus(out_args("count", "results"))]
    async fn list_vaults(&self, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<(u64, Vec<Dict>)> {
        self.0.list(&by, Right::Read, move |s| s.list_vaults(options.read()?)).await
    }

    /// Makes the vault the one that these resources are backed up to.
    async fn associate_resources(
        &self,
        vault: String,
        resources: Vec<String>,
        #[zbus(header)] by: Call<'_>,
    ) -> Result<()> {
        self.0.call(&by, Right::Configure, move |s| s.associate_resources(&vault, resources)).await
    }

    /// Undoes AssociateResources.
    async fn dissociate_resources(
        &self,
        vault: String,
        resources: Vec<String>,
        #[zbus(header)] by: Call<'_>,
    ) -> Result<()> {
        self.0.call(&by, Right::Configure, move |s| s.dissociate_resources(&vault, resources)).await
    }

    /// Gives back the space that no backup needs. Key: `dry_run` (b). Never changes a backup.
    #[zbus(out_args("job"))]
    async fn prune_vault(&self, vault: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Job> {
        self.0.job(&by, Right::Delete, move |s| s.prune_vault(&vault, options.read()?)).await
    }

    /// Checks a vault. Keys: `read_data` (b: every byte, not only that all is there), `repair` (b).
    #[zbus(out_args("job"))]
    async fn verify_vault(&self, vault: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Job> {
        self.0.job(&by, Right::Backup, move |s| s.verify_vault(&vault, options.read()?)).await
    }

    /// Brings a vault's mirrors up to date.
    #[zbus(out_args("job"))]
    async fn sync_vault(&self, vault: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Job> {
        self.0.job(&by, Right::Backup, move |s| s.sync_vault(&vault, options.read()?)).await
    }

    /// Adds a key that opens the vault. Key: `kind` (s): recovery, whose printable key is answered here,
    /// once and never again, or file.
    #[zbus(out_args("key"))]
    async fn add_vault_key(&self, vault: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Dict> {
        self.0.object(&by, Right::Configure, move |s| s.add_vault_key(&vault, options.read()?)).await
    }

    /// Lists a vault's keys: what they are, never what they hold.
    #[zbus(out_args("keys"))]
    async fn list_vault_keys(&self, vault: String, #[zbus(header)] by: Call<'_>) -> Result<Vec<Dict>> {
        self.0.objects(&by, Right::Read, move |s| s.list_vault_keys(&vault)).await
    }

    /// Removes a key from a vault. The last one stays.
    async fn remove_vault_key(
        &self,
        vault: String,
        key: String,
        options: Dict,
        #[zbus(header)] by: Call<'_>,
    ) -> Result<()> {
        self.0.call(&by, Right::Configure, move |s| s.remove_vault_key(&vault, &key, options.read()?)).await
    }

    /// Backs a resource up now, and answers with the new backup, whose `job` does the work. Keys: `type`
    /// (s: full, database), `description` (s), `vault` (s), `incremental` (b; default true, false reads
    /// everything again), `backup_type` (s; default manual).
    #[zbus(out_args("backup"))]
    async fn create_backup(&self, resource: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Dict> {
        self.0.object_with_job(&by, Right::Backup, move |s| s.create_backup(&resource, options.read()?)).await
    }

    /// One backup.
    #[zbus(out_args("backup"))]
    async fn get_backup(&self, id: u64, #[zbus(header)] by: Call<'_>) -> Result<Dict> {
        self.0.object(&by, Right::Read, move |s| s.get_backup(id)).await
    }

    /// Lists backups. Keys: those of every list, and `resource` or `server_id` (s), `project` (s),
    /// `backup_type` (s), `type` (s), `status` (s; in_progress stands for pending and running), `vault` (s),
    /// `machine` (s), `schedule` (s), `checkpoint` (t). Sorted by id or created_at, a page costs the same however
    /// many backups there are;
    /// sorted by anything else, all that the filter leaves are read.
    #[zbus(out_args("count", "results"))]
    async fn list_backups(&self, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<(u64, Vec<Dict>)> {
        self.0.list(&by, Right::Read, move |s| s.list_backups(options.read()?)).await
    }

    /// Changes a backup's `description` (s) or `protected` (b, which takes the right delete): a protected
    /// backup is never deleted.
    async fn update_backup(&self, id: u64, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<()> {
        let right = if options.has("protected") { Right::Delete } else { Right::Backup };
        self.0.call(&by, right, move |s| s.update_backup(id, options.read()?)).await
    }

    /// Deletes a backup for good.
    #[zbus(out_args("job"))]
    async fn delete_backup(&self, id: u64, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Job> {
        self.0.job(&by, Right::Delete, move |s| s.delete_backup(id, options.read()?)).await
    }

    /// Restores a backup: to `target` (s, an absolute path, where files stand under their own absolute
    /// paths; of a volume also a block device or image, which it is written onto), or in place with
    /// `confirm` (b) true. Keys: `paths` (as, or aay where not UTF-8; default all),
    /// `conflict_strategy` (s: overwrite, skip), `error_strategy` (s: continue, fast_fail), `delete` (b: in
    /// place, what the backup does not have goes; default true for whole restores), `dry_run` (b), `type` (s: database
    /// restores those alone), `database` (s: a new database for one dump; needs no confirm). In place, the
    /// resource's running units are stopped for it. Right: restore, which is as good as root.
    #[zbus(out_args("job"))]
    async fn restore_backup(&self, id: u64, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Job> {
        self.0.job(&by, Right::Restore, move |s| s.restore_backup(id, options.read()?)).await
    }

    /// Restores a server in place from one of its backups. Answers with `status`, `message`, `job`,
    /// `backup` and `server`. Keys as in RestoreBackup.
    #[zbus(out_args("result"))]
    async fn restore_server(
        &self,
        server: String,
        backup: u64,
        options: Dict,
        #[zbus(header)] by: Call<'_>,
    ) -> Result<Dict> {
        self.0.object_with_job(&by, Right::Restore, move |s| s.restore_server(&server, backup, options.read()?)).await
    }

    /// Writes a backup as a tar archive to exactly one of `path` (s, absolute, must not exist) and `fd` (h).
    /// Key: `format` (s: tar, tar.gz, tar.zst).
    #[zbus(out_args("job"))]
    async fn export_backup(&self, id: u64, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Job> {
        self.0.job(&by, Right::Restore, move |s| s.export_backup(id, options.read()?)).await
    }

    /// Checks one backup. Key: `read_data` (b).
    #[zbus(out_args("job"))]
    async fn verify_backup(&self, id: u64, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Job> {
        self.0.job(&by, Right::Backup, move |s| s.verify_backup(id, options.read()?)).await
    }

    /// Lists the files that a backup could not read, and why. Keys: those of every list.
    #[zbus(out_args("count", "results"))]
    async fn list_backup_errors(
        &self,
        id: u64,
        options: Dict,
        #[zbus(header)] by: Call<'_>,
    ) -> Result<(u64, Vec<Dict>)> {
        self.0.list(&by, Right::Read, move |s| s.list_backup_errors(id, options.read()?)).await
    }

    /// Backs up several resources of a vault at once, and answers with the checkpoint, whose `job` ends when
    /// its backups have ended. Keys, also accepted within `parameters` (a{sv}): `resources` (as, ids or names;
    /// default all that are backed up to the vault), `resource_details` (aa{sv}: `id`, `name`, `type`,
    /// `extra_info`), `name` (s: letters, digits, Han, _ and -), `description` (s), `incremental` (b; default
    /// true), `auto_trigger` (b: its backups are automatic ones), `retention_duration` (i: days after which
    /// automatic ones may go; default -1, never). What cannot be backed up is in `skipped_resources`, with code
    /// and reason, and the others go on.
    #[zbus(out_args("checkpoint"))]
    async fn create_checkpoint(&self, vault: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Dict> {
        self.0.object_with_job(&by, Right::Backup, move |s| s.create_checkpoint(&vault, options.read()?)).await
    }

    /// One checkpoint.
    #[zbus(out_args("checkpoint"))]
    async fn get_checkpoint(&self, id: u64, #[zbus(header)] by: Call<'_>) -> Result<Dict> {
        self.0.object(&by, Right::Read, move |s| s.get_checkpoint(id)).await
    }

    /// Lists checkpoints. Keys: those of every list, and `vault` (s), `resource` (s), `name` (s), `status` (s:
    /// protecting, available, error).
    #[zbus(out_args("count", "results"))]
    async fn list_checkpoints(&self, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<(u64, Vec<Dict>)> {
        self.0.list(&by, Right::Read, move |s| s.list_checkpoints(options.read()?)).await
    }

    /// Deletes all backups of a checkpoint for good, and it with them. Refused while one of them is being made,
    /// is in use or is protected.
    #[zbus(out_args("job"))]
    async fn delete_checkpoint(&self, id: u64, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Job> {
        self.0.job(&by, Right::Delete, move |s| s.delete_checkpoint(id, options.read()?)).await
    }

    /// Copies a backup to another vault, as a manual backup of its own there. Keys: `description` (s).
    #[zbus(out_args("job"))]
    async fn copy_backup(&self, id: u64, vault: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Job> {
        self.0.job(&by, Right::Backup, move |s| s.copy_backup(id, &vault, options.read()?)).await
    }

    /// Lists the versions of a file in a resource's backups: one row for each, with the first and the last
    /// backup in a row that has it. Keys: `vault` (s), those of every list.
    #[zbus(out_args("count", "results"))]
    async fn list_versions(
        &self,
        resource: String,
        path: String,
        options: Dict,
        #[zbus(header)] by: Call<'_>,
    ) -> Result<(u64, Vec<Dict>)> {
        self.0.list(&by, Right::Read, move |s| s.list_versions(&resource, &path, options.read()?)).await
    }

    /// Lists the versions of files in a resource's backups by a pattern in gitignore syntax. Keys: `vault` (s),
    /// those of every list.
    #[zbus(out_args("count", "results"))]
    async fn find_files(
        &self,
        resource: String,
        glob: String,
        options: Dict,
        #[zbus(header)] by: Call<'_>,
    ) -> Result<(u64, Vec<Dict>)> {
        self.0.list(&by, Right::Read, move |s| s.find_files(&resource, &glob, options.read()?)).await
    }

    /// Lists what was added, removed, changed or moved from one backup to another. Keys: those of every list.
    #[zbus(out_args("count", "results"))]
    async fn diff_backups(
        &self,
        first: u64,
        second: u64,
        options: Dict,
        #[zbus(header)] by: Call<'_>,
    ) -> Result<(u64, Vec<Dict>)> {
        self.0.list(&by, Right::Read, move |s| s.diff_backups(first, second, options.read()?)).await
    }

    /// Reads a catalog back from a destination. Keys: `recovery_key` (s) or `key_file` (s), `machine` (s: whose
    /// place this one takes, or none), `name` (s: of the vault).
    #[zbus(out_args("job"))]
    async fn rebuild_catalog(&self, destination: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Job> {
        self.0.job(&by, Right::Configure, move |s| s.rebuild_catalog(&destination, options.read()?)).await
    }

    /// Takes a snapshot of a resource on its own storage, and answers with it. The name has letters, digits,
    /// dashes and underscores. Keys: `description` (s), `unit_action` (s: none, freeze, stop).
    #[zbus(out_args("snapshot"))]
    async fn create_snapshot(
        &self,
        resource: String,
        name: String,
        options: Dict,
        #[zbus(header)] by: Call<'_>,
    ) -> Result<Dict> {
        self.0.object(&by, Right::Backup, move |s| s.create_snapshot(&resource, &name, options.read()?)).await
    }

    /// One snapshot.
    #[zbus(out_args("snapshot"))]
    async fn get_snapshot(&self, id: u64, #[zbus(header)] by: Call<'_>) -> Result<Dict> {
        self.0.object(&by, Right::Read, move |s| s.get_snapshot(id)).await
    }

    /// Lists snapshots. Keys: those of every list, and `resource` or `server_id` (s), `status` (s), `automatic` (b).
    #[zbus(out_args("count", "results"))]
    async fn list_snapshots(&self, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<(u64, Vec<Dict>)> {
        self.0.list(&by, Right::Read, move |s| s.list_snapshots(options.read()?)).await
    }

    /// Deletes a snapshot for good.
    #[zbus(out_args("job"))]
    async fn delete_snapshot(&self, id: u64, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Job> {
        self.0.job(&by, Right::Delete, move |s| s.delete_snapshot(id, options.read()?)).await
    }

    /// Puts a server back to one of its snapshots. Key: `confirm` (b), which must be true.
    #[zbus(out_args("result"))]
    async fn restore_snapshot(&self, id: u64, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Dict> {
        self.0.object_with_job(&by, Right::Restore, move |s| s.restore_snapshot(id, options.read()?)).await
    }

    /// Makes a task, which copies projects into a folder of plain files or brings such a copy back, and
    /// answers with its id. Keys: `name` (s), `store_location` (s, absolute), `type` (s: DATA_BACKUP,
    /// DATA_RESTORE), `content` (a{sv}: `common_data` b, `compression` b, `format` s: tar.zst or tar.gz,
    /// `increment` b, `increment_date` s, `projects` aa{sv} of `project_id` s, `project_regex` s, `repo_list`
    /// as, `repo_regex` s, `exclude_projects` as, `exclude_repos` as), `backup_setting` (a{sv}:
    /// `conflict_strategy` s: SKIP, OVERWRITE; `error_strategy` s: CONTINUE, FAST_FAIL; `execution_strategy`
    /// s: IMMEDIATELY, SPECIFIED_TIME, CRON_EXPRESSION; `execution_plan` a{sv} of `execute_immediately` b,
    /// `execute_time` s, `cron_expression` s; `space_cap_check` b). A run writes beneath
    /// STORE_LOCATION/NAME; the store_location of a DATA_RESTORE is what a run wrote, which takes the right
    /// restore as well.
    #[zbus(out_args("id"))]
    async fn create_task(&self, task: Dict, #[zbus(header)] by: Call<'_>) -> Result<String> {
        if task.has_text("type", "DATA_RESTORE") {
            self.0.guard.check(&by, Right::Restore).await?;
        }
        let uid = self.0.guard.caller(&by, Right::Configure).await?;
        self.0.run(move |s| s.create_task(task.read()?, &super::rights::user_name(uid))).await
    }

    /// Runs a task now. It may be run again and again, but not twice at once.
    #[zbus(out_args("job"))]
    async fn execute_task(&self, id: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Job> {
        let right = match self.0.service.task_type(&id) {
            Ok(kind) if kind.name() == "DATA_RESTORE" => Right::Restore,
            Ok(_) => Right::Backup,
            // What does not exist is told to those who may look.
            Err(_) => Right::Read,
        };
        self.0.job(&by, right, move |s| s.execute_task(&id, options.read()?)).await
    }

    /// One task. `result` (completed, failed, cancelled), `error` and `report` are of its last run.
    #[zbus(out_args("task"))]
    async fn get_task(&self, id: String, #[zbus(header)] by: Call<'_>) -> Result<Dict> {
        self.0.object(&by, Right::Read, move |s| s.get_task(&id)).await
    }

    /// One page of the tasks. Keys: `state` (s: PENDING, RUNNING, FINISHED), `page_number` (from 1),
    /// `page_size` (1 to 1000; default 20). Answers `records`, `page_number`, `page_size`, `total_records`,
    /// `total_pages`, `count`, `page`.
    #[zbus(out_args("page"))]
    async fn list_tasks(&self, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Dict> {
        self.0.object(&by, Right::Read, move |s| s.list_tasks(options.read()?)).await
    }

    /// Removes a task that does not run. What its runs wrote stays.
    async fn remove_task(&self, id: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<()> {
        self.0.call(&by, Right::Configure, move |s| s.remove_task(&id, options.read()?)).await
    }

    /// Makes a schedule or changes one, and answers with its id; keys not given keep their value. Keys:
    /// `cron` (s: five fields, six with seconds first, or @daily and the like), `timezone` (s, such as
    /// Europe/Berlin; default the machine's), `enabled` (b), `what` (s: backup, snapshot; what is kept is
    /// then about those), `type` (s: full,
    /// database), `resources` (as; none: all there are when it runs), `vault` (s; none: each resource's own),
    /// `retention` (u, days; default 30, 0: not by age), `max_backups` (u; 0: any number), `keep_daily`,
    /// `keep_weekly`, `keep_monthly`, `keep_yearly` (u: the last backup of each of so many; with any of them
    /// `retention` does not count), `full_every` (u: every so many backups everything is read again),
    /// `notify_on_failure` (b). A run that was missed is caught up once. A resource whose earlier backup by
    /// the schedule still waits or runs is left out. What is kept is decided per resource; the newest good
    /// backup always stays.
    #[zbus(out_args("id"))]
    async fn set_schedule(&self, name: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<u64> {
        self.0.call(&by, Right::Configure, move |s| s.set_schedule(&name, options.read()?)).await
    }

    /// One schedule: its settings, and `next_run`, `last_run`, `last_result` (running, completed, failed,
    /// cancelled, skipped), `overdue` (b: a resource has no good backup of a run that was due an hour or, where
    /// runs are rarer, up to a day ago), `message`.
    #[zbus(out_args("schedule"))]
    async fn get_schedule(&self, schedule: String, #[zbus(header)] by: Call<'_>) -> Result<Dict> {
        self.0.object(&by, Right::Read, move |s| s.get_schedule(&schedule)).await
    }

    /// Lists schedules. Keys: those of every list.
    #[zbus(out_args("count", "results"))]
    async fn list_schedules(&self, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<(u64, Vec<Dict>)> {
        self.0.list(&by, Right::Read, move |s| s.list_schedules(options.read()?)).await
    }

    /// Removes a schedule. Its backups stay until they are deleted.
    async fn remove_schedule(&self, schedule: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<()> {
        self.0.call(&by, Right::Configure, move |s| s.remove_schedule(&schedule, options.read()?)).await
    }

    /// Runs a schedule now, enabled or not; its next run stays. Answers one job for each resource.
    #[zbus(out_args("jobs"))]
    async fn run_schedule(&self, schedule: String, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<Vec<Job>> {
        self.0.jobs(&by, Right::Backup, move |s| s.run_schedule(&schedule, options.read()?)).await
    }

    /// What becomes of every good backup of a schedule: `backup` (t), `resource` (s), `created_at`, `keep` (b),
    /// `reason` (s), `expires_at` (by age, or when coming runs will have replaced it; absent: not foreseen).
    #[zbus(out_args("plan"))]
    async fn plan_retention(&self, schedule: String, #[zbus(header)] by: Call<'_>) -> Result<Vec<Dict>> {
        self.0.objects(&by, Right::Read, move |s| s.plan_retention(&schedule)).await
    }

    /// One job, ended or not.
    #[zbus(out_args("job"))]
    async fn get_job(&self, id: u64, #[zbus(header)] by: Call<'_>) -> Result<Dict> {
        self.0.object(&by, Right::Read, move |s| s.get_job(id)).await
    }

    /// Lists jobs, ended ones too. Keys: those of every list, and `state` (s), `kind` (s).
    #[zbus(out_args("count", "results"))]
    async fn list_jobs(&self, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<(u64, Vec<Dict>)> {
        self.0.list(&by, Right::Read, move |s| s.list_jobs(options.read()?)).await
    }

    /// Asks a job to stop. It ends as cancelled; what it made so far is left consistent. Takes the right
    /// that starting it took.
    async fn cancel_job(&self, id: u64, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<()> {
        let kind = self.0.service.job_status(id).map(|job| job.kind);
        let right = kind.map_or(Right::Read, |kind| Right::of_job(&kind));
        self.0.call(&by, right, move |s| s.cancel_job(id, options.read()?)).await
    }

    /// Reads the configuration files again, and makes the objects that they declare as they say. A mistake
    /// in them changes nothing, and is the answer, with file, line and key.
    async fn reload(&self, options: Dict, #[zbus(header)] by: Call<'_>) -> Result<()> {
        self.0.call(&by, Right::Configure, move |s| s.reload(options.read()?)).await
    }

    /// A job was queued; its object stands.
    #[zbus(signal)]
    pub async fn job_new(emitter: &SignalEmitter<'_>, id: u64, path: ObjectPath<'_>) -> zbus::Result<()>;

    /// A job ended, and its object is gone. The result is completed, failed or cancelled.
    #[zbus(signal)]
    pub async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u64,
        path: ObjectPath<'_>,
        result: &str,
        error: &str,
    ) -> zbus::Result<()>;

    /// A backup has another status: pending, running, completed, failed, cancelled or deleted.
    #[zbus(signal)]
    pub async fn backup_changed(emitter: &SignalEmitter<'_>, id: u64, status: &str) -> zbus::Result<()>;

    /// A backup failed, of this resource and for this reason.
    #[zbus(signal)]
    pub async fn backup_failed(emitter: &SignalEmitter<'_>, id: u64, resource: u64, error: &str) -> zbus::Result<()>;

    /// The program's version.
    #[zbus(property(emits_changed_signal = "const"))]
    async fn version(&self) -> String {
        self.0.service.version().to_owned()
    }

    /// The directory in which backups can be browsed as files.
    #[zbus(property(emits_changed_signal = "const"))]
    async fn browse_path(&self) -> String {
        self.0.service.browse_path()
    }

    /// How many jobs run.
    #[zbus(property)]
    async fn running_jobs(&self) -> u32 {
        self.0.service.running_jobs()
    }

    /// How many jobs wait.
    #[zbus(property)]
    async fn queued_jobs(&self) -> u32 {
        self.0.service.queued_jobs()
    }
}
