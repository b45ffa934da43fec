# The agent for gateways that run containers: docker build -f packaging/containers/agent.Dockerfile -t wheeltapper-agent .
# Updates of models need no new image: they are in the state folder.
FROM debian:12-slim AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3.11-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY constraints.txt ./
COPY firmware_configs firmware_configs
COPY protocols protocols
COPY agent agent
RUN python3.11 -m venv /opt/wheeltapper \
    && /opt/wheeltapper/bin/pip install --no-cache-dir --no-compile -c constraints.txt ./protocols './agent[onnx,litert,modbus,opcua]'

FROM debian:12-slim
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3.11 && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10002 --home-dir /var/lib/wheeltapper wheeltapper \
    && install -d -m 0750 -o 10002 -g 10002 /var/lib/wheeltapper
COPY --from=build /opt/wheeltapper /opt/wheeltapper
ENV PATH=/opt/wheeltapper/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1
USER 10002:10002
WORKDIR /var/lib/wheeltapper
VOLUME /var/lib/wheeltapper
ENTRYPOINT ["wheeltapper-agent"]
CMD ["run", "--config", "/etc/wheeltapper/agent.toml"]
