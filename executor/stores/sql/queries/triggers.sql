-- Triggers of registered playbooks, and their firings.

-- name: get
select record from triggers where tenant = :tenant and playbook = :playbook and name = :name

-- name: find
select record from triggers where tenant = :tenant
and playbook = :playbook -- optional
and (playbook {binary}, name {binary}) > (:after_playbook, :after_name) -- optional
order by playbook {binary}, name {binary} limit :limit

-- name: find_at_path
select record from triggers where tenant = :tenant and path = :path

-- The subquery lets SQLite use the index of awaited ends, and not read all triggers of the tenant.
-- name: find_awaiting
select record from triggers where (tenant, playbook, name) in (
    select tenant, playbook, name from triggers where tenant = :tenant and awaits = :awaits
)
order by playbook {binary}, name {binary}

-- name: find_due
select record from triggers where due_at <= :now
and not (tenant {in_ids}) -- optional
order by due_at limit :limit

-- The triggers of a playbook. Their rows are locked until the end of the transaction.
-- name: lock_all
update triggers set edition = edition where tenant = :tenant and playbook = :playbook returning record

-- name: advance
update triggers set version = :version, due_at = :due_at, edition = :edition, record = :record
where tenant = :tenant and playbook = :playbook and name = :name and edition = :edition_before

-- name: put
insert into triggers (tenant, playbook, name, version, path, awaits, due_at, edition, record)
values (:tenant, :playbook, :name, :version, :path, :awaits, :due_at, :edition, :record)
on conflict (tenant, playbook, name) do update set version = excluded.version, path = excluded.path,
    awaits = excluded.awaits, due_at = excluded.due_at, edition = excluded.edition, record = excluded.record

-- A trigger gives its path up before another one takes it in the same transaction.
-- name: release_path
update triggers set path = null where tenant = :tenant and playbook = :playbook and name = :name

-- name: remove
delete from triggers where tenant = :tenant and playbook = :playbook and name = :name

-- name: add_firing
insert into firings (tenant, playbook, name, position, fired_at, record)
values (:tenant, :playbook, :name, :position, :fired_at, :record) on conflict do nothing

-- name: find_firings
select position, record from firings where tenant = :tenant and playbook = :playbook and name = :name
and position < :before -- optional
order by position desc limit :limit

-- The newest firings of several triggers. `:last` is one less than their greatest number.
-- name: find_newest_firings
select firings.playbook, firings.name, record from (select {trigger_columns} from {trigger_rows}) as wanted
cross join firings
where firings.tenant = :tenant and firings.playbook = wanted.playbook and firings.name = wanted.name
and position < :before and position >= coalesce((
    select position from firings as earlier where earlier.tenant = :tenant
    and earlier.playbook = wanted.playbook and earlier.name = wanted.name and earlier.position < :before
    order by earlier.position desc limit 1 offset :last
), '')
order by position desc

-- name: delete_old_firings
delete from firings where (tenant, playbook, name, position) in (
    select tenant, playbook, name, position from firings where fired_at < :before
    order by fired_at limit :limit
)
