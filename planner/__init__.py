"""The compiler: playbook text in, a `Plan` or diagnostics out. No I/O."""
