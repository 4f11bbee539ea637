-- The playbook registry. A removed version keeps its row, so that its number and its name never mean another
-- text. An alias names a version that is registered. It has its number, which never changes.

-- name: add
insert into playbooks (tenant, name, version, number, plan_hash, created_at, registered_by)
values (:tenant, :name, :version, :number, :plan_hash, :registered_at, :registered_by)

-- name: restore
update playbooks set removed_at = null where tenant = :tenant and name = :name and version = :version

-- The version, even if it is removed.
-- name: version
select * from playbooks where tenant = :tenant and name = :name and version = :version

-- name: last_number
select coalesce(max(number), 0) as number from playbooks where tenant = :tenant and name = :name

-- name: get
select * from playbooks where tenant = :tenant and name = :name and removed_at is null
and version = :version -- optional
order by number desc limit 1

-- name: find_playbooks
select * from playbooks where tenant = :tenant and removed_at is null and {newest}
and name > :after -- optional
order by name limit :limit

-- name: find_versions
select * from playbooks where tenant = :tenant and name = :name and removed_at is null
and number < :after -- optional
order by number desc limit :limit

-- name: remove
update playbooks set removed_at = :now where tenant = :tenant and name = :name and removed_at is null
and version = :version -- optional

-- The version that is live: the one that was promoted, or the newest.
-- name: live
select * from playbooks where tenant = :tenant and name = :name and removed_at is null and number = coalesce(
    (select number from aliases where tenant = :tenant and playbook = :name and alias = 'live'),
    (select max(number) from playbooks where tenant = :tenant and name = :name and removed_at is null)
)

-- name: at_alias
select * from playbooks where tenant = :tenant and name = :name and removed_at is null and number = (
    select number from aliases where tenant = :tenant and playbook = :name and alias = :alias
)

-- name: find_aliases
select * from aliases where tenant = :tenant and playbook {in_ids}
order by playbook {binary}, alias {binary}

-- name: put_alias
insert into aliases (tenant, playbook, alias, version, number, changed_at, changed_by)
values (:tenant, :playbook, :alias, :version, :number, :changed_at, :changed_by)
on conflict (tenant, playbook, alias) do update set version = excluded.version, number = excluded.number,
    changed_at = excluded.changed_at, changed_by = excluded.changed_by

-- name: remove_aliases
delete from aliases where tenant = :tenant and playbook = :playbook
and alias = :alias -- optional
