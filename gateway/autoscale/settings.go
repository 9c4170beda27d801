package autoscale

import (
	"cmp"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// Scaling is what an installation can say about scaling.
type Scaling struct {
	Autoscale       bool               `env:"autoscale" envDefault:"true" doc:"change the number of replicas with the load; false leaves it to others, such as a HorizontalPodAutoscaler, and still wakes functions that are called"`
	ScaleType       function.ScaleType `env:"default_scale_type" envDefault:"capacity" doc:"what the number of replicas follows unless a function says otherwise: capacity, rps, cpu or queue"`
	ScaleTarget     float64            `env:"default_target" envDefault:"50" doc:"load of one replica unless a function says otherwise; for capacity, where a replica has no number of slots"`
	ScaleMax        int                `env:"default_scale_max" envDefault:"0" doc:"the most replicas of a function that does not say it; 0 is 20, or the number of CPUs where the gateway and the functions are one process"`
	ScaleZeroAfter  function.Duration  `env:"default_zero_duration" envDefault:"15m" doc:"how long a function that may be scaled to zero is idle before it is"`
	ScaleDownWindow function.Duration  `env:"scale_down_window" envDefault:"15s" doc:"fewer replicas only if fewer would have sufficed for so long; 0 is at once"`
	ScaleStable     function.Duration  `env:"scale_stable_window" envDefault:"30s" doc:"window whose mean load decides"`
	ScaleBurst      function.Duration  `env:"scale_burst_window" envDefault:"3s" doc:"window whose mean load can only ask for more replicas"`
	ScaleStepUp     int                `env:"scale_step_up" envDefault:"0" doc:"the most replicas that are added within one burst window; 0 is any number"`
	ScaleStepDown   int                `env:"scale_step_down" envDefault:"0" doc:"the most replicas that are taken away within one burst window; 0 is any number"`
}

// Defaults returns what s says. most is the largest number of replicas where s
// names none; 0 is that of [Defaults]. Errors are fault.Invalid.
func (s Scaling) Defaults(most int) (Defaults, error) {
	if !(s.ScaleTarget >= 0) || s.ScaleMax < 0 || s.ScaleStepUp < 0 || s.ScaleStepDown < 0 {
		return Defaults{}, fault.Invalid.Errorf("default_target is %v, default_scale_max %d, scale_step_up %d and scale_step_down %d: want nothing below 0",
			s.ScaleTarget, s.ScaleMax, s.ScaleStepUp, s.ScaleStepDown)
	}
	if s.ScaleDownWindow.Std() > function.MaxDownWindow || s.ScaleStable.Std() > function.MaxDownWindow {
		return Defaults{}, fault.Invalid.Errorf("scale_down_window is %v and scale_stable_window %v: want at most %v", s.ScaleDownWindow, s.ScaleStable, function.MaxDownWindow)
	}
	d := Defaults{
		Type: s.ScaleType, Target: s.ScaleTarget, Max: cmp.Or(s.ScaleMax, most),
		ZeroAfter: s.ScaleZeroAfter.Std(), DownWindow: s.ScaleDownWindow.Std(), Stable: s.ScaleStable.Std(), Burst: s.ScaleBurst.Std(),
		StepUp: s.ScaleStepUp, StepDown: s.ScaleStepDown,
	}
	if d.DownWindow == 0 {
		d.DownWindow = -1
	}
	return d, nil
}
