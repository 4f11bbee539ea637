-- Plans: a header and a source, and the steps and tasks as parts. `used_at` is the time of the last use.

-- name: find_use
select used_at from plans where hash = :hash

-- A deletion that has begun waits for this, and then finds the plan used. Or this waits, and finds no plan.
-- name: touch
update plans set used_at = :now where hash = :hash

-- name: add
insert into plans (hash, header, source, used_at) values (:hash, :header, :source, :now)
on conflict do nothing

-- Parts of a plan that the store does not have. One statement does not give way to other threads of Python
-- for each row.
-- name: add_parts
insert into plan_parts select :hash, {part_columns} from {part_rows} where true on conflict do nothing

-- name: count_parts
select count(*) as parts from plan_parts where hash = :hash

-- name: get
select header, source from plans where hash = :hash

-- name: header
select header as body from plans where hash = :hash

-- name: step_names
select name from plan_parts where hash = :hash and kind = 'step' order by position

-- name: parts
select kind, name, body from plan_parts where hash = :hash order by position

-- name: part
select body from plan_parts where hash = :hash and kind = :kind and name = :name

-- name: find_unused
select hash from plans where used_at < :before order by used_at limit :limit

-- Plans of a worker of an earlier version have no time. They are kept until they have been examined once.
-- name: delete_unused
delete from plans where hash {in_ids} and used_at < :before and used_at > 0
and not exists (select 1 from runs where plan_hash = plans.hash)
and not exists (select 1 from playbooks where plan_hash = plans.hash and removed_at is null) returning hash

-- Parts of a plan that was deleted, at most `:limit`. A plan that was saved again keeps its parts. SQLite
-- reads the text of a plan when it compares hashes, so it must not do so for each part.
-- name: delete_parts
delete from plan_parts where (hash, kind, name) in (
    select hash, kind, name from plan_parts where hash = :hash
    and not exists (select 1 from plans where hash = :hash) limit :limit
)

-- name: mark_examined
update plans set used_at = :now where hash {in_ids} and used_at < :before
