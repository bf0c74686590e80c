// Reads the CPU quota of Linux control groups, version 1 and 2. OpenMP runtimes ignore it: in a
// container with a quota of two processors on a machine of sixty-four they start sixty-four
// threads.

#include "parallel.hpp"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace fused_rmsprop {
namespace {

/// The quota in one group's folder, in processors, or 0 if it has none.
double quota_in(const std::string &folder) {
    std::string quota;
    double period = 0;
    if (std::ifstream file(folder + "/cpu.max"); file >> quota >> period) // version 2
        return quota == "max" || period <= 0 ? 0 : std::stod(quota) / period;
    double amount = 0;
    std::ifstream amount_file(folder + "/cpu.cfs_quota_us"); // version 1; -1 for no quota
    std::ifstream period_file(folder + "/cpu.cfs_period_us");
    if (amount_file >> amount && period_file >> period && amount > 0 && period > 0)
        return amount / period;
    return 0;
}

bool has_controller(const std::string &controllers, const std::string &wanted) {
    std::istringstream names(controllers);
    for (std::string name; std::getline(names, name, ',');)
        if (name == wanted)
            return true;
    return false;
}

} // namespace

int cgroup_cpus(const char *membership, const char *root) try {
    double least = 0;
    const auto consider = [&](const std::string &mount, std::string group) {
        for (;;) { // a group is bound by its ancestors' quotas too
            if (const double quota = quota_in(mount + group); quota > 0)
                least = least > 0 ? std::min(least, quota) : quota;
            if (group.empty())
                return;
            group.erase(group.find_last_of('/') == std::string::npos ? 0 : group.find_last_of('/'));
        }
    };

    std::ifstream file(membership);
    for (std::string line; std::getline(file, line);) { // hierarchy:controllers:/group
        const auto first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos)
            continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const std::string group = line.substr(second + 1);
        if (controllers.empty()) {
            consider(root, group);
        } else if (has_controller(controllers, "cpu")) {
            consider(std::string(root) + "/" + controllers, group);
            consider(std::string(root) + "/cpu", group);
        }
    }
    constexpr double most = 1 << 20; // more is no bound
    return least > 0 && least < most ? std::max(1, static_cast<int>(least)) : 0;
} catch (...) {
    return 0; // unreadable or malformed: no bound that we know of
}

} // namespace fused_rmsprop
