# Front door to the scripts; what each of them does is in its own header.
.DEFAULT_GOAL := help
.PHONY: help demo cluster test run lint fmt bench bench-quick soak store-faults chaos faults clients fuzz clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Two turns, an interrupt and the figures, on the real CLI against the stand-in API; ends by itself
	@tests/demo

cluster: ## Three nodes on a throw-away PostgreSQL behind Envoy, one of them killed under load; ends by itself
	@.ci/tools
	@tests/run-cluster

test: ## Everything that CI runs
	@.ci/test

run: ## The service in the foreground: for real with ANTHROPIC_API_KEY or a logged-in CLI, else on the stand-in
	@tests/run-service

lint: ## The part of `test` that runs none of the project's code
	@.ci/test lint

fmt: ## Format Rust, Go and Python
	@.ci/fmt

bench: ## The service beside the floor and the alternatives, built for release; ROWS='warm frames' for some rows only
	@.ci/tools
	@tests/bench

bench-quick: ## Instructions of the streaming path, held against those that were recorded
	@tests/bench-quick

soak: ## Ten minutes of everything at random, and ten more with faults of disk, database, clock and network
	@SESSION_POOL_SOAK_SECONDS=600 cargo test --features test-tools --test soak -- --nocapture

store-faults: ## 500 rounds of a disk, a database and a service that fail, each told result looked for in the file
	@SESSION_POOL_STORE_FAULTS_ROUNDS=500 cargo test --features test-tools --test store_faults -- --nocapture

chaos: ## 200 rounds of several nodes on one PostgreSQL that fail, are stopped and are cut off, on the fake and on the real CLI
	@SESSION_POOL_CHAOS_ROUNDS=200 SESSION_POOL_CHAOS_SECONDS=1800 cargo test --features test-tools --test chaos -- --nocapture

faults: ## The faults that tests hold, each with its tests
	@tests/faults

clients: ## The Python, Go, Rust and grpcurl callers against a live service
	@.ci/tools
	@tests/clients/run

fuzz: ## The fuzz targets, five minutes each
	@tests/fuzz/run 300

clean: ## Remove everything that was built or fetched
	cargo clean
	rm -rf target tests/clients/go/gen-importer clients/java/target clients/python/build clients/typescript/dist clients/typescript/src/gen
