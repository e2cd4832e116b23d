# The example's image: its binary, and its workers in Python with Debian's libraries.
#
#   docker build -f deploy/docker/example.Dockerfile -t eventbus-example:dev .
ARG GO_VERSION=1.26

FROM golang:${GO_VERSION}-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends protobuf-compiler protobuf-compiler-grpc libprotobuf-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN mkdir -p /out/stubs && protoc -I proto --python_out=/out/stubs \
    --plugin=protoc-gen-grpc_python="$(command -v grpc_python_plugin)" --grpc_python_out=/out/stubs eventbus/v1/eventbus.proto
WORKDIR /src/deploy/example
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o /out/example .

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-grpcio python3-pika python3-redis python3-pil \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/example /example/example
COPY --from=build /out/stubs /example/stubs
COPY deploy/example/python /example/python
COPY deploy/example/scan/rules.json /example/scan/rules.json
ENV PYTHONPATH=/example/stubs PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/example/example"]
