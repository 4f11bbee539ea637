-- Facts for metrics: one row for each, written in the transaction that makes it true. Sweeps and scrapes add
-- them up to totals and delete them. Totals stay when runs are deleted. Those of the tenant `_service` are
-- the sums of all tenants.
create table facts (
    tenant text not null,
    playbook text not null,
    kind text not null,
    status text not null,
    bucket integer not null,
    seconds real not null
);
create table fact_totals (
    tenant text not null,
    playbook text not null,
    kind text not null,
    status text not null,
    bucket integer not null,
    count integer not null,
    seconds real not null,
    primary key (tenant, playbook, kind, status, bucket)
) without rowid;
