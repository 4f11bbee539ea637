-- Facts for metrics, and their totals.

-- name: add
insert into facts (tenant, playbook, kind, status, bucket, seconds)
select tenant, playbook, :kind, :status, :bucket, :seconds from runs where id = :run_id

-- name: add_firing
insert into facts (tenant, playbook, kind, status, bucket, seconds)
values (:tenant, :playbook, 'firing', :outcome, 0, 0)

-- name: find_any
select 1 from facts limit 1

-- The labels of playbooks that tenants have so far.
-- name: find_labels
select distinct tenant, playbook from fact_totals where tenant {in_ids}

-- name: add_totals
insert into fact_totals (tenant, playbook, kind, status, bucket, count, seconds)
select {total_columns} from {total_rows} where true
on conflict (tenant, playbook, kind, status, bucket) do update set
    count = fact_totals.count + excluded.count, seconds = fact_totals.seconds + excluded.seconds

-- name: find_totals
select playbook, kind, status, bucket, count, seconds from fact_totals where tenant = :tenant

-- The visits of a queue that are due, of one tenant or of all. No visit before `:since` is read.
-- name: count_due
select count(*) as due, min(due_at) as oldest from (
    select due_at from visits where {active} and due_at >= :since and due_at <= :now
    and queue = :queue -- optional
    and {turn} = :turn -- optional
    order by due_at limit :limit
) as due_visits

-- name: count_open_runs
select count(*) as open_runs from (
    select 1 from runs where finished_at is null
    and tenant = :tenant -- optional
    limit :limit
) as open_ones
