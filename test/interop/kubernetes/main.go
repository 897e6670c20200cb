// Asks Kubernetes' own code what pods take and what quantities say: JSON in, JSON out. What requests.ts is held against.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
)

type question struct {
	Pods       []json.RawMessage `json:"pods"`
	Quantities []string          `json:"quantities"`
}

// An exact number, unscaled over ten to the scale; without digits it is none.
type exact struct {
	Unscaled string `json:"unscaled,omitempty"`
	Scale    int    `json:"scale"`
}

type answer struct {
	Requests   []map[string]exact `json:"requests"`
	Quantities []exact            `json:"quantities"`
}

func main() {
	var asked question
	must(json.NewDecoder(os.Stdin).Decode(&asked))
	told := answer{Requests: []map[string]exact{}, Quantities: []exact{}}
	for _, raw := range asked.Pods {
		var pod v1.Pod
		must(json.Unmarshal(raw, &pod))
		fillIn(&pod)
		requests := map[string]exact{}
		for name, quantity := range helpers.PodRequests(&pod, helpers.PodResourcesOptions{
			UseStatusResources: true,
			InPlacePodLevelResourcesVerticalScalingEnabled: true,
			UseDRANodeAllocatableResourceClaimStatus:       true,
		}) {
			requests[string(name)] = exactOf(quantity)
		}
		told.Requests = append(told.Requests, requests)
	}
	for _, text := range asked.Quantities {
		quantity, err := resource.ParseQuantity(text)
		if err != nil {
			told.Quantities = append(told.Quantities, exact{})
		} else {
			told.Quantities = append(told.Quantities, exactOf(quantity))
		}
	}
	must(json.NewEncoder(os.Stdout).Encode(told))
}

func exactOf(quantity resource.Quantity) exact {
	decimal := quantity.AsDec()
	return exact{Unscaled: decimal.UnscaledBig().String(), Scale: int(decimal.Scale())}
}

// What the API server fills in before anybody reads a pod; its code for it cannot be imported.
func fillIn(pod *v1.Pod) {
	for _, containers := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for index := range containers {
			resources := &containers[index].Resources
			resources.Requests = with(resources.Requests, resources.Limits, func(v1.ResourceName) bool { return true })
		}
	}
	whole := pod.Spec.Resources
	if whole == nil || len(whole.Limits) == 0 {
		return
	}
	sums := helpers.AggregateContainerRequests(pod, helpers.PodResourcesOptions{})
	whole.Requests = with(whole.Requests, sums, func(name v1.ResourceName) bool {
		return name == v1.ResourceCPU || name == v1.ResourceMemory
	})
	whole.Requests = with(whole.Requests, whole.Limits, helpers.IsSupportedPodLevelResource)
}

func with(list, more v1.ResourceList, takes func(v1.ResourceName) bool) v1.ResourceList {
	for name, quantity := range more {
		if _, there := list[name]; there || !takes(name) {
			continue
		}
		if list == nil {
			list = v1.ResourceList{}
		}
		list[name] = quantity
	}
	return list
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
