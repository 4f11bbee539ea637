-- Plans: a header and a source, and the steps and tasks as parts.

-- name: exists
select 1 from plans where hash = :hash

-- name: add
insert into plans values (:hash, :header, :source) on conflict do nothing

-- All parts of a plan at once. One statement does not give way to other threads of Python for each row.
-- name: add_parts
insert into plan_parts select :hash, {part_columns} from {part_rows}

-- name: get
select header, source from plans where hash = :hash

-- name: header
select header from plans where hash = :hash

-- name: step_names
select name from plan_parts where hash = :hash and kind = 'step' order by position

-- name: parts
select kind, name, body from plan_parts where hash = :hash order by position

-- name: part
select body from plan_parts where hash = :hash and kind = :kind and name = :name
