# shellcheck shell=bash
# Where a model answers, seen from this machine. Sourced, after lib.sh.
#
# The Service `inference` is the deployment's way in, and leads to one model. Where that is a port of the
# nodes, as on kind, every other model gets a port of its own, which goes with the model. Elsewhere an
# address costs money or a name, so that is for an operator to give; until then there is a tunnel.

# HOST:PORT of a model, or nothing where it has no address.
address_of() { # MODEL
  if [[ $(selected_by inference) == "$1" ]]; then
    address_by inference
  elif [[ $(ours get service inference --ignore-not-found --output 'jsonpath={.spec.type}') == NodePort ]] &&
    ours auth can-i create services --quiet; then
    expose "$1" >&2 && address_by "$1-address"
  fi
}

tunnel_to() { # MODEL
  echo "kubectl -n $NAMESPACE port-forward service/$1-predictor 9080:80"
}

selected_by() { # SERVICE: the model that it leads to
  ours get service "$1" --ignore-not-found \
    --output 'jsonpath={.spec.selector.serving\.kserve\.io/inferenceservice}'
}

address_by() { # SERVICE
  local port
  if [[ $(ours get service "$1" --output 'jsonpath={.spec.type}') != NodePort ]]; then
    ours get service "$1" --output 'jsonpath={.status.loadBalancer.ingress[0]['"'ip','hostname'"']}'
    return
  fi
  port=$(ours get service "$1" --output 'jsonpath={.spec.ports[0].nodePort}')
  if [[ $port == 30080 ]]; then # kind-config.yaml maps this one to this machine
    echo "127.0.0.1:$port"
  else
    echo "$(kubectl get nodes --output 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}'):$port"
  fi
}

# Gives a model a port of the nodes, if it has none. With shards it leads to the front, as `inference` does.
expose() { # MODEL
  local component uid
  component=$(ours get service inference --output 'jsonpath={.spec.selector.component}')
  uid=$(ours get inferenceservice "$1" --output 'jsonpath={.metadata.uid}')
  ours apply --server-side --field-manager mlpipeline --filename - <<YAML >/dev/null
apiVersion: v1
kind: Service
metadata:
  name: $1-address
  labels: {app.kubernetes.io/part-of: mlpipeline, app.kubernetes.io/instance: $RELEASE}
  ownerReferences:
    - {apiVersion: serving.kserve.io/v1beta1, kind: InferenceService, name: $1, uid: $uid}
spec:
  type: NodePort
  selector: {serving.kserve.io/inferenceservice: $1, component: $component}
  ports:
    - {name: http, port: 80, targetPort: 8080}
    - {name: grpc, port: 8081, targetPort: 8081}
YAML
}
